"""`trivium fit`: tells whether a pair will pay off on this machine.

Owns the start of the pair, its prompts and what is printed; the study is `evaluation.speed.payoff`'s.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from evaluation.reference.corpus.queries import REFERENCE_SOURCE, read_reference
from evaluation.speed.payoff.pages import checks_table, draw, payoff_table, times_table
from evaluation.speed.payoff.passage import NUM_PASSAGES
from evaluation.speed.payoff.study import RULES, Study, StudyOptions, run_study
from evaluation.speed.payoff.verdict import Payoff, judge
from labeler_jobs.models.huggingface import render_prompt
from labeler_jobs.queries.loading import load_queries
from services.cli.console import err, note, out
from services.cli.errors import CliError
from services.cli.pair.local_pair import LocalOptions
from services.cli.pair.up import started_pair
from services.client import CallFailed
from services.common.errors import TriviumError
from services.common.files.json_file import write_json
from services.common.pair import Pair
from services.common.text.tokenizer import load_tokenizer
from services.slm.settings import SlmSettings


@dataclass(frozen=True, slots=True)
class PayoffOptions:
    """What `trivium fit` is asked for.

    Args:
        pair: What is studied.
        study: How much is asked of it.
        prompts: JSON, JSONL or Parquet file of prompts; None takes queries of the reference suite.
        figure: Where the figure goes; None draws none.
        json_path: Where all values go; None writes none.
        start_timeout_s: Seconds until the pair has to serve.
    """

    pair: Pair
    study: StudyOptions
    prompts: Path | None
    figure: Path | None
    json_path: Path | None
    start_timeout_s: float


def run_payoff(options: PayoffOptions) -> None:
    """Starts the pair, studies it, stops it, and tells what it found.

    Raises:
        CliError: A prompt can't be used, the pair didn't start, or a service ended meanwhile.
    """
    try:
        # Before anything that takes a while.
        for path in (options.figure, options.json_path):
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
        study = _study(options, _prompts(options))
    except CallFailed as error:
        raise CliError(str(error)) from error
    except (ValueError, OSError, TriviumError) as error:
        raise CliError(str(error)) from error
    hold_s = SlmSettings.model_fields["draft_hold_ms"].default / 1000
    payoff = judge(study, options.study, hold_s=hold_s)
    _show(options, payoff)


def _prompts(options: PayoffOptions) -> list[list[int]]:
    study = options.study
    turns = 1 + NUM_PASSAGES * study.rounds + study.repetitions * 2 * (1 + len(RULES))
    source, path = (REFERENCE_SOURCE, "") if options.prompts is None else ("file", str(options.prompts))
    readers = {REFERENCE_SOURCE: read_reference}
    split = "validation" if options.prompts is None else ""
    queries = load_queries(source, path, split, turns * study.num_prompts, readers=readers)
    tokenizer = load_tokenizer(options.pair.slm.model, options.pair.slm.revision)
    return [render_prompt(tokenizer, query.query) for query in queries]


def _study(options: PayoffOptions, prompts: Sequence[Sequence[int]]) -> Study:
    with tempfile.TemporaryDirectory(prefix="trivium-fit-") as directory:
        local = LocalOptions(pair=options.pair, state_dir=Path(directory), start_timeout_s=options.start_timeout_s)
        with started_pair(local) as running, err.status("measuring") as status:
            addresses = {probe.service: probe.address for probe in running.probe()}
            study = run_study(addresses, prompts, options.study, lambda what: status.update(f"measuring {what}"))
            running.check_unbroken()
    return study


def _show(options: PayoffOptions, payoff: Payoff) -> None:
    # Wider than many terminals: cut columns would hide the figures.
    wide = Console(width=max(out.width, 120))
    wide.print(times_table(payoff.times, options.study))
    wide.print(payoff_table(payoff, options.study))
    if options.study.repetitions:
        wide.print(checks_table(payoff))
    out.print(payoff.sentence(), soft_wrap=True)
    if options.figure is not None:
        files = draw(payoff, options.figure.with_suffix(""))
        note(f"drawn as {' and '.join(map(str, files))}")
    if options.json_path is not None:
        write_json(
            options.json_path,
            {
                "pair": options.pair.name,
                "options": dataclasses.asdict(options.study),
                "verdict": payoff.sentence(),
                **dataclasses.asdict(payoff),
            },
        )
