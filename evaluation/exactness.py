"""Holds a running pair to the reference decoding: `python -m evaluation.exactness --address HOST:PORT`.

Decodes prompts of the reference suite through the services, at several thresholds, run-ahead depths and numbers of
concurrent streams, and compares them token for token, with who wrote each, with `evaluation.in_process`. A difference
is excused only where that loop itself decided by less than `NEAR_TIE` at the first differing position.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from trivium.v1 import orchestrator_pb2

from evaluation.in_process import NEAR_TIE, SLM_ONLY, DecodedToken, decode
from evaluation.reference.corpus.samples import MAX_NEW_TOKENS, unseen_samples
from evaluation.reference.pair import WEIGHTS_DIR, LoadedPair, load_pair
from labeler_jobs.models.huggingface import render_prompt
from services.client import AsyncClient, Options, tokens_request
from services.common.progress import track

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Reference:
    """A prompt and its reference decoding at one threshold."""

    prompt_token_ids: tuple[int, ...]
    threshold: float
    completion: tuple[DecodedToken, ...]


@dataclass(slots=True)
class Outcome:
    """How many completions of one setting were compared, equal, and excused as near ties.

    Attributes:
        threshold: Routing threshold.
        depth: Run-ahead depth.
        concurrency: Streams at a time.
        num_compared: Completions.
        num_tokens: Tokens of the reference decodings.
        num_excused: Completions that differ first where the reference was a near tie.
        num_different: Completions that differ otherwise: defects.
    """

    threshold: float
    depth: int
    concurrency: int
    num_compared: int = 0
    num_tokens: int = 0
    num_excused: int = 0
    num_different: int = 0


def suite_prompts(pair: LoadedPair, num_prompts: int) -> list[tuple[int, ...]]:
    """Renders held-out queries of all three domains."""
    samples = unseen_samples("held_out", num_prompts)
    return [tuple(render_prompt(pair.tokenizer, sample.query)) for sample in samples]


def reference_decodings(
    pair: LoadedPair, prompts: Iterable[tuple[int, ...]], thresholds: Iterable[float]
) -> list[Reference]:
    """Decodes every prompt at every threshold, in process."""
    # A request carries its threshold as float32; the loop has to compare with the same number.
    exact = [float(np.float32(threshold)) for threshold in thresholds]
    grid = list(itertools.product(exact, prompts))
    return [
        Reference(prompt, threshold, tuple(decode(pair, prompt, threshold=threshold, max_new_tokens=MAX_NEW_TOKENS)))
        for threshold, prompt in track(grid, "reference decoding")
    ]


async def compare(
    address: str, references: Sequence[Reference], *, depths: Sequence[int], concurrencies: Sequence[int]
) -> list[Outcome]:
    """Decodes the references' prompts through the orchestrator at `address`, and compares.

    Returns:
        One outcome for each threshold, depth and concurrency.
    """
    outcomes = []
    async with AsyncClient(address) as client:
        thresholds = sorted({reference.threshold for reference in references})
        settings = list(itertools.product(thresholds, depths, concurrencies))
        for threshold, depth, concurrency in track(settings, "services"):
            outcome = Outcome(threshold, depth, concurrency)
            slots = asyncio.Semaphore(concurrency)
            chosen = [reference for reference in references if reference.threshold == threshold]
            await asyncio.gather(*(_compare_one(client, reference, outcome, slots) for reference in chosen))
            outcomes.append(outcome)
    return outcomes


async def _compare_one(
    client: AsyncClient,
    reference: Reference,
    outcome: Outcome,
    slots: asyncio.Semaphore,
) -> None:
    async with slots:
        got = await _generate(client, reference, outcome.depth)
    want = [(token.token_id, token.from_llm) for token in reference.completion]
    outcome.num_compared += 1
    outcome.num_tokens += len(want)
    if got == want:
        return
    position = next(i for i, (a, b) in enumerate(itertools.zip_longest(got, want)) if a != b)
    margin = reference.completion[position].margin if position < len(want) else float("inf")
    if margin < NEAR_TIE:
        outcome.num_excused += 1
    else:
        outcome.num_different += 1
        logger.error(
            "threshold %s, depth %s: position %s of %s differs, decided by %g", *(outcome.threshold, outcome.depth),
            position, len(want), margin,
        )  # fmt: skip


async def _generate(client: AsyncClient, reference: Reference, depth: int) -> list[tuple[int, bool]]:
    options = Options(max_new_tokens=MAX_NEW_TOKENS, threshold=reference.threshold, run_ahead_depth=depth)
    completion = await client.complete(tokens_request(reference.prompt_token_ids, options))
    return [(token.token_id, token.source == orchestrator_pb2.TOKEN_SOURCE_LLM) for token in completion.tokens]


def _table(outcomes: Iterable[Outcome]) -> Table:
    table = Table(
        "threshold", "depth", "streams", "compared", "tokens", "equal", f"near ties (< {NEAR_TIE:g})", "different"
    )
    for o in outcomes:
        num_equal = o.num_compared - o.num_excused - o.num_different
        row = (o.threshold, o.depth, o.concurrency, o.num_compared, o.num_tokens, num_equal)
        table.add_row(*map(str, (*row, o.num_excused, o.num_different)))
    return table


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m evaluation.exactness", description=__doc__.split("\n\n")[0])
    parser.add_argument("--address", required=True, help="orchestrator of a running reference pair, HOST:PORT")
    parser.add_argument("--weights", type=Path, default=WEIGHTS_DIR, help="the pair's folder (default: as shipped)")
    parser.add_argument("--prompts", type=int, default=200, help="held-out queries (default: 200)")
    parser.add_argument("--depths", type=int, nargs="+", default=[0, 4, 16], help="run-ahead depths")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 32], help="concurrent streams")
    parser.add_argument("--json", type=Path, help="also write the outcomes to this file")
    return parser.parse_args()


def main() -> int:
    """Entry point. Returns 1 if anything differs that isn't a near tie."""
    arguments = _parse_arguments()
    torch.set_num_threads(1)
    pair = load_pair(arguments.weights)
    prompts = suite_prompts(pair, arguments.prompts)
    references = reference_decodings(pair, prompts, [0.0, pair.description.threshold, SLM_ONLY])
    outcomes = asyncio.run(
        compare(arguments.address, references, depths=arguments.depths, concurrencies=arguments.streams)
    )
    Console().print(_table(outcomes))
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(outcome) for outcome in outcomes], indent=1) + "\n")
    return int(any(outcome.num_different for outcome in outcomes))


if __name__ == "__main__":
    raise SystemExit(main())
