"""How fast labelling is, and how its cost grows: `python -m evaluation.speed.labeling --json labeling_speed.json`.

The two stages in which the LLM writes are compared on the reference pair with two plain loops that give the same
tokens:

  naive   one position at a time: every token is a forward pass over its whole prefix, one sequence, no cache
  cached  Hugging Face's `generate`: one sequence at a time with its own cache, which the next one doesn't share

The loops run on an evenly spaced part of the same responses and the same forks. Times are CPU seconds of this process
(all threads), which neighbours on the machine change least; wall seconds stand beside them. Every time is the least
of all repetitions. Loading models isn't counted.

Beside the file, a figure of the same name shows the cost of all stages against the number of response tokens, with a
straight line through it.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from transformers import PreTrainedModel

from evaluation.records.commit import code_commit
from evaluation.reference.corpus.queries import REFERENCE_SOURCE
from evaluation.reference.corpus.samples import MAX_NEW_TOKENS
from evaluation.reference.pair import WEIGHTS_DIR, load_model
from evaluation.reference.training.label_step import make_job
from evaluation.report.style import BLUE, FAINT, count_axis, new_figure, report_style, save_figure
from labeler_jobs.models.huggingface import generate_ids
from labeler_jobs.pipeline import Labeling
from labeler_jobs.plan import LabelSettings, QuerySource
from labeler_jobs.shards.store import ShardName, ShardStore
from labeler_jobs.stages.registry import STAGES, Bench, MakeShard, Stage
from labeler_jobs.stages.schemas import CONTINUATIONS, RESPONSES

SIZES = (60, 120, 240, 480)
"""Queries of each run."""
NUM_BASELINE_RESPONSES = 6
NUM_BASELINE_FORKS = 60


@dataclass(frozen=True)
class Timed:
    """Tokens that were written, and what it took.

    Attributes:
        num_tokens: How many.
        cpu_s: CPU seconds, all threads.
        wall_s: Wall seconds.
    """

    num_tokens: int
    cpu_s: float
    wall_s: float

    @property
    def tokens_per_cpu_s(self) -> float:
        """Rate."""
        return self.num_tokens / self.cpu_s


@dataclass(frozen=True)
class SizeRun:
    """One labelling run.

    Attributes:
        num_queries: Queries.
        num_response_tokens: Tokens that were labelled.
        stages: By name; tokens are those that the stage counts.
    """

    num_queries: int
    num_response_tokens: int
    stages: dict[str, Timed]

    @property
    def cpu_s(self) -> float:
        """CPU seconds of all stages."""
        return sum(timed.cpu_s for timed in self.stages.values())


@dataclass(frozen=True)
class LinearFit:
    """Cost = slope * tokens + intercept.

    Attributes:
        slope_s_per_token: CPU seconds per response token.
        intercept_s: CPU seconds.
        r_squared: Share of the cost's variance that the line explains.
    """

    slope_s_per_token: float
    intercept_s: float
    r_squared: float


@dataclass(frozen=True)
class Prefixed:
    """What a plain loop has to write: the same tokens as the pipeline did.

    Attributes:
        prefix: Token ids to continue.
        written: What the pipeline wrote behind them.
    """

    prefix: list[int]
    written: list[int]


def measure_run(num_queries: int, settings: LabelSettings, folder: Path) -> SizeRun:
    """Labels this many queries in one shard and times every stage.

    Args:
        num_queries: Of the training split.
        settings: How they are labelled.
        folder: Output folder; must be new.
    """
    job = make_job(WEIGHTS_DIR, QuerySource(REFERENCE_SOURCE, split="train", limit=num_queries), 1, settings)
    labeling = Labeling(job, str(folder))
    labeling.write_queries([0])
    stages = {}
    for stage in STAGES:
        with stage.open(labeling.bench) as make:
            stages[stage.name] = _time_stage(labeling.bench, stage, make)
    return SizeRun(num_queries, stages["prefill"].num_tokens, stages)


def _time_stage(bench: Bench, stage: Stage, make: MakeShard) -> Timed:
    counts: list[int] = []
    shard = ShardName(stage.folder, 0, 1)
    cpu, wall = time.process_time(), time.perf_counter()
    bench.store.write(shard.path, stage.schema(bench.plan), make(shard, counts.append))
    return Timed(sum(counts), time.process_time() - cpu, time.perf_counter() - wall)


def read_targets(folder: Path) -> tuple[list[Prefixed], list[Prefixed]]:
    """What the pipeline wrote, evenly spaced over a run: responses, and continuations that aren't empty."""
    store = ShardStore(str(folder))
    responses = store.read(ShardName("responses", 0, 1).path, RESPONSES).to_pylist()
    continuations = store.read(ShardName("continuations", 0, 1).path, CONTINUATIONS).to_pylist()
    by_id = {row["query_id"]: row for row in responses}
    forks = []
    for row in _spaced([row for row in continuations if row["continuation_token_ids"]], NUM_BASELINE_FORKS):
        owner = by_id[row["query_id"]]
        kept = owner["response_token_ids"][: row["position"]]
        prefix = [*owner["prompt_token_ids"], *kept, row["slm_token_id"]]
        forks.append(Prefixed(prefix, row["continuation_token_ids"]))
    chosen = _spaced(responses, NUM_BASELINE_RESPONSES)
    return [Prefixed(row["prompt_token_ids"], row["response_token_ids"]) for row in chosen], forks


def _spaced(rows: Sequence[Any], number: int) -> list[Any]:
    return [rows[index * len(rows) // number] for index in range(min(number, len(rows)))]


@torch.inference_mode()
def write_naively(llm: PreTrainedModel, target: Prefixed) -> list[int]:
    """One forward pass over the whole sequence for every token. It is told how many tokens to write."""
    token_ids = list(target.prefix)
    for _ in target.written:
        logits = llm(torch.tensor([token_ids]), use_cache=False).logits
        token_ids.append(int(logits[0, -1].argmax()))
    return token_ids[len(target.prefix) :]


def write_cached(llm: PreTrainedModel, target: Prefixed) -> list[int]:
    """Hugging Face's greedy `generate` of one sequence. It is told how many tokens to write."""
    [written] = generate_ids(llm, [target.prefix], len(target.written))
    return written


def measure_loop(
    write: Callable[[PreTrainedModel, Prefixed], list[int]], llm: PreTrainedModel, targets: Sequence[Prefixed]
) -> tuple[Timed, int]:
    """Times a plain loop.

    Returns:
        What it took, and how many targets it wrote otherwise than the pipeline: where two logits are nearly equal,
        the last bits of a sum decide, and they depend on the shapes of the matrices.
    """
    write(llm, targets[0])
    cpu, wall = time.process_time(), time.perf_counter()
    written = [write(llm, target) for target in targets]
    timed = Timed(sum(map(len, written)), time.process_time() - cpu, time.perf_counter() - wall)
    return timed, sum(row != target.written for row, target in zip(written, targets, strict=True))


def fit_line(runs: Sequence[SizeRun]) -> LinearFit:
    """Least squares of the cost of all stages on the number of response tokens."""
    tokens = np.array([run.num_response_tokens for run in runs], dtype=np.float64)
    seconds = np.array([run.cpu_s for run in runs])
    slope, intercept = np.polyfit(tokens, seconds, 1)
    residual = seconds - (slope * tokens + intercept)
    explained = 1.0 - float(residual @ residual) / float(((seconds - seconds.mean()) ** 2).sum())
    return LinearFit(float(slope), float(intercept), explained)


def least(runs: Sequence[SizeRun]) -> SizeRun:
    """Repetitions of one run as one, with the least time of every stage."""
    stages = {name: min((run.stages[name] for run in runs), key=lambda timed: timed.cpu_s) for name in runs[0].stages}
    return SizeRun(runs[0].num_queries, runs[0].num_response_tokens, stages)


def measure(sizes: Sequence[int], settings: LabelSettings, repetitions: int) -> dict[str, Any]:
    """Measures everything.

    Args:
        sizes: Queries of each run; the largest is what the plain loops are compared with.
        settings: How queries are labelled; its threads are those of the loops, too.
        repetitions: Turns of every run and loop.

    Returns:
        Content of the JSON file.
    """
    torch.set_num_threads(settings.num_threads)
    with TemporaryDirectory(prefix="trivium-labeling-speed-") as name:
        folder = Path(name)
        turns = [
            [measure_run(size, settings, folder / f"{size}-{turn}") for size in sizes] for turn in range(repetitions)
        ]
        runs = [least(turns_of_size) for turns_of_size in zip(*turns, strict=True)]
        targets = dict(zip(("responses", "continue"), read_targets(folder / f"{sizes[-1]}-0"), strict=True))
    llm = load_model(WEIGHTS_DIR / "llm")
    comparison = {}
    for stage, chosen in targets.items():
        pipeline = runs[-1].stages[stage]
        loops = {
            name: min((measure_loop(write, llm, chosen) for _ in range(repetitions)), key=lambda loop: loop[0].cpu_s)
            for name, write in (("naive", write_naively), ("cached", write_cached))
        }
        comparison[stage] = {
            "pipeline": _rates(pipeline),
            **{name: _rates(timed) | {"num_unlike": unlike} for name, (timed, unlike) in loops.items()},
            "speedup": {
                name: pipeline.tokens_per_cpu_s / timed.tokens_per_cpu_s for name, (timed, _) in loops.items()
            },
        }
    return {
        "command": "python -m evaluation.speed.labeling --json FILE",
        "commit": code_commit(),
        "repetitions": repetitions,
        "settings": asdict(settings),
        "runs": [asdict(run) | {"cpu_s": run.cpu_s} for run in runs],
        "fit": asdict(fit_line(runs)),
        "comparison": comparison,
    }


def _rates(timed: Timed) -> dict[str, float]:
    return asdict(timed) | {"tokens_per_cpu_s": timed.tokens_per_cpu_s}


def draw(result: dict[str, Any], stem: Path) -> list[Path]:
    """Draws the cost of all stages against the number of response tokens, as PNG and SVG."""
    fit = result["fit"]
    tokens = [run["num_response_tokens"] for run in result["runs"]]
    with report_style():
        figure, [panel] = new_figure(2.8)
        ends = np.array([0, max(tokens) * 1.1])
        panel.plot(ends, fit["slope_s_per_token"] * ends + fit["intercept_s"], color=FAINT, linestyle="--", zorder=1)
        panel.plot(tokens, [run["cpu_s"] for run in result["runs"]], "o", color=BLUE)
        for run in result["runs"]:
            place = (run["num_response_tokens"], run["cpu_s"])
            panel.annotate(f"{run['num_queries']} queries", place, (6, -10), textcoords="offset points")
        panel.set_title(
            f"Labelling costs {1e3 * fit['slope_s_per_token']:.2f} ms of CPU a token, at any size "
            f"(R\u00b2 = {fit['r_squared']:.4f})"
        )
        panel.set_xlabel("response tokens")
        panel.set_ylabel("CPU seconds, all stages")
        panel.set_xlim(0, max(tokens) * 1.15)
        count_axis(panel.xaxis)
        panel.set_ylim(bottom=0)
        return save_figure(figure, stem)


def table(result: dict[str, Any]) -> Table:
    """The comparison with the plain loops."""
    shown = Table(title="Tokens per CPU second", title_justify="left")
    for column in ("stage", "pipeline", "cached loop", "times", "naive loop", "times"):
        shown.add_column(column, justify="left" if column == "stage" else "right")
    for stage, rows in result["comparison"].items():
        cells = [f"{rows['pipeline']['tokens_per_cpu_s']:,.0f}"]
        for name in ("cached", "naive"):
            cells += [f"{rows[name]['tokens_per_cpu_s']:,.1f}", f"{rows['speedup'][name]:.1f}"]
        shown.add_row(stage, *cells)
    fit = result["fit"]
    shown.caption = f"cost: {1e3 * fit['slope_s_per_token']:.3f} ms a token, R\u00b2 {fit['r_squared']:.5f}"
    return shown


def main(argv: list[str] | None = None) -> None:
    """Measures from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True, help="file of the results; figures go beside it")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), help="queries of each run, at least two")
    parser.add_argument("--repetitions", type=int, default=3, help="turns of every run and loop")
    parser.add_argument("--batch-size", type=int, default=128, help="sequences that the LLM writes at a time")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    args = parser.parse_args(argv)
    settings = LabelSettings(max_new_tokens=MAX_NEW_TOKENS, max_batch_size=args.batch_size, num_threads=args.threads)
    result = measure(args.sizes, settings, args.repetitions)
    args.json.parent.mkdir(parents=True, exist_ok=True)
    args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    draw(result, args.json.with_suffix(""))
    Console().print(table(result))


if __name__ == "__main__":
    main()
