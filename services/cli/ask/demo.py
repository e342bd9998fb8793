"""`trivium demo`: the reference pair answers one question of each domain.

Owns the questions' choice, the check of the answers and the summary. The questions are drawn from the held-out range
of the suite that the pair was trained on.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table
from rich.text import Text

from evaluation.reference.corpus.samples import Sample, draw_sample
from services.cli.ask.answer import stream_answer
from services.cli.ask.client import OrchestratorClient
from services.cli.console import LLM_STYLE, out
from services.cli.errors import CliError
from services.cli.figures import PairSize, average_parameters, summary
from services.cli.pair.local_pair import LocalOptions
from services.cli.pair.up import chosen_pair, started_pair
from services.client import Completion, Options, chat_request

HELD_OUT_INDICES = (60_000_000, 60_000_001, 60_000_002)
"""One sample of each domain; a test holds that none of them is in the training range."""

_MAX_NEW_TOKENS = 400


@dataclass(frozen=True, slots=True)
class Result:
    """One question with its answer."""

    sample: Sample
    answer: Completion

    @property
    def is_right(self) -> bool:
        """Whether the answer ends with the right number."""
        return final_number(self.answer.text) == self.sample.answer


def run_demo(*, engine: str | None, redis_url: str | None, start_timeout_s: float) -> None:
    """Starts the reference pair, asks, sums up, stops it.

    Args:
        engine: "transformers" or "sglang"; None for the pair file's.
        redis_url: A Redis to use; None starts one.
        start_timeout_s: Seconds until the pair has to serve.

    Raises:
        CliError: The pair didn't start, or a question got no answer.
    """
    pair = chosen_pair("reference", engine, None)
    with tempfile.TemporaryDirectory(prefix="trivium-demo-") as directory:
        options = LocalOptions(
            pair=pair, state_dir=Path(directory), redis_url=redis_url, start_timeout_s=start_timeout_s
        )
        with started_pair(options) as running, OrchestratorClient(running.address) as client:
            size = client.pair_size()
            legend = Text.assemble("The SLM writes like this, ", ("the LLM like this", LLM_STYLE), ".\n")
            out.print(legend)
            results = [_ask(client, draw_sample(index), size) for index in HELD_OUT_INDICES]
    out.print(results_table(results, size))


def final_number(text: str) -> int | None:
    """The number that an answer ends with, or None."""
    found = re.findall(r"The answer is (-?\d+)", text)
    return int(found[-1]) if found else None


def results_table(results: Sequence[Result], size: PairSize) -> Table:
    """A row a question."""
    table = Table(title="Summary", title_justify="left")
    for column in ("domain", "answer", "tokens", "LLM usage", "average parameters", "tokens/s"):
        table.add_column(column)
    for result in results:
        usage = result.answer.finish.usage
        given = final_number(result.answer.text)
        verdict = f"[green]{given}, right[/]" if result.is_right else f"[red]{given}, not {result.sample.answer}[/]"
        table.add_row(
            result.sample.domain,
            verdict,
            str(usage.num_completion_tokens),
            f"{usage.llm_usage_rate:.1%}",
            average_parameters(usage, size),
            f"{usage.num_completion_tokens / result.answer.seconds:.0f}",
        )
    return table


def _ask(client: OrchestratorClient, sample: Sample, size: PairSize) -> Result:
    out.print(Text(f"[{sample.domain}] {sample.query}", style="bold"))
    answer = stream_answer(client, chat_request(sample.query, Options(max_new_tokens=_MAX_NEW_TOKENS)))
    if not answer.text:
        raise CliError(f"the {sample.domain} question got an empty answer")
    out.print(Text(summary(answer.finish.usage, size, answer.seconds), style="dim"))
    out.print()
    return Result(sample, answer)
