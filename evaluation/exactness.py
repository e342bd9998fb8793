"""Holds a running pair to the reference decoding: `python -m evaluation.exactness --address HOST:PORT`.

Decodes prompts of the reference suite through the services, by several rules, greedily and sampled, at several
run-ahead depths and numbers of concurrent streams, and compares them token for token, with who wrote each, with
`evaluation.in_process`. A difference is excused only where that loop itself decided by less than `NEAR_TIE` at the
first differing position.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from trivium.v1 import orchestrator_pb2

from evaluation.in_process import NEAR_TIE, DecodedToken, decode
from evaluation.reference.corpus.samples import MAX_NEW_TOKENS, unseen_samples
from evaluation.reference.pair import WEIGHTS_DIR, LoadedPair, load_pair
from labeler_jobs.models.huggingface import render_prompt
from services.client import AsyncClient, Options, Sampling, tokens_request
from services.common.progress import track
from services.common.rule_spec import RuleSpec
from services.engines.base import GREEDY, SamplingParams
from services.rules.chosen import ChosenRule
from services.rules.rule import RuleError
from services.rules.shipped import SHIPPED

logger = logging.getLogger(__name__)

SAMPLED = SamplingParams(temperature=0.8, top_p=0.95)
"""How tokens are drawn where they are; every prompt has a seed of its own."""


@dataclass(frozen=True, slots=True)
class Reference:
    """A prompt and its reference decoding by one rule."""

    prompt_token_ids: tuple[int, ...]
    rule: ChosenRule
    completion: tuple[DecodedToken, ...]
    sampling: SamplingParams = GREEDY
    max_new_tokens: int = MAX_NEW_TOKENS

    @property
    def threshold(self) -> float:
        """That of its rule, which has one."""
        return self.rule.parameters["threshold"]

    @property
    def rule_text(self) -> str:
        """Its rule with all parameters, as requests name it."""
        return str(RuleSpec(self.rule.rule.name, self.rule.parameters))

    @property
    def is_sampled(self) -> bool:
        """Whether tokens are drawn."""
        return self.sampling.temperature > 0


@dataclass(slots=True)
class Outcome:
    """How many completions of one setting were compared, equal, and excused as near ties.

    Attributes:
        rule: With its parameters.
        sampled: Whether tokens were drawn.
        depth: Run-ahead depth.
        concurrency: Streams at a time.
        num_compared: Completions.
        num_tokens: Tokens of the reference decodings.
        num_excused: Completions that differ first where the reference was a near tie.
        num_different: Completions that differ otherwise: defects.
    """

    rule: str
    sampled: bool
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
    pair: LoadedPair,
    prompts: Iterable[tuple[int, ...]],
    rules: Iterable[ChosenRule],
    *,
    sampled: bool = False,
    max_new_tokens: int = MAX_NEW_TOKENS,
) -> list[Reference]:
    """Decodes every prompt by every rule, in process.

    Args:
        pair: The pair.
        prompts: Prompt token ids.
        rules: Rules.
        sampled: Draws tokens as `SAMPLED` says, with the prompt's index as seed.
        max_new_tokens: Limit of each completion.
    """
    grid = list(itertools.product(rules, enumerate(prompts)))
    references = []
    for rule, (index, prompt) in track(grid, "reference decoding"):
        sampling = replace(SAMPLED, seed=index) if sampled else GREEDY
        completion = decode(pair, prompt, rule, max_new_tokens=max_new_tokens, sampling=sampling)
        references.append(Reference(prompt, rule, tuple(completion), sampling, max_new_tokens))
    return references


async def compare(
    address: str, references: Sequence[Reference], *, depths: Sequence[int], concurrencies: Sequence[int]
) -> list[Outcome]:
    """Decodes the references' prompts through the orchestrator at `address`, and compares.

    Returns:
        One outcome for each rule, greedy or sampled, depth and concurrency.
    """
    outcomes = []
    by_setting: dict[tuple[str, bool], list[Reference]] = {}
    for reference in references:
        by_setting.setdefault((reference.rule_text, reference.is_sampled), []).append(reference)
    async with AsyncClient(address) as client:
        grid = list(itertools.product(by_setting.items(), depths, concurrencies))
        for (setting, chosen), depth, concurrency in track(grid, "services"):
            outcome = Outcome(*setting, depth, concurrency)
            slots = asyncio.Semaphore(concurrency)
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
    want = [(token.token_id, _source(token)) for token in reference.completion]
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
            "rule %s, depth %s: position %s of %s differs, decided by %g", *(outcome.rule, outcome.depth),
            position, len(want), margin,
        )  # fmt: skip


async def _generate(
    client: AsyncClient, reference: Reference, depth: int
) -> list[tuple[int, orchestrator_pb2.TokenSource.ValueType]]:
    drawn = reference.sampling
    options = Options(
        max_new_tokens=reference.max_new_tokens,
        rule=reference.rule_text,
        sampling=Sampling(drawn.temperature, drawn.top_k, drawn.top_p, drawn.seed),
        run_ahead_depth=depth,
    )
    completion = await client.complete(tokens_request(reference.prompt_token_ids, options))
    return [(token.token_id, token.source) for token in completion.tokens]


def _source(token: DecodedToken) -> orchestrator_pb2.TokenSource.ValueType:
    if token.from_llm:
        return orchestrator_pb2.TOKEN_SOURCE_LLM
    return orchestrator_pb2.TOKEN_SOURCE_SLM_CONFIRMED if token.confirmed else orchestrator_pb2.TOKEN_SOURCE_SLM


def _table(outcomes: Iterable[Outcome]) -> Table:
    table = Table(
        "rule", "tokens are", "depth", "streams", "compared", "tokens", "equal", f"near ties (< {NEAR_TIE:g})",
        "different",
    )  # fmt: skip
    for o in outcomes:
        num_equal = o.num_compared - o.num_excused - o.num_different
        row = (o.rule, "drawn" if o.sampled else "greedy", o.depth, o.concurrency, o.num_compared, o.num_tokens)
        table.add_row(*map(str, (*row, num_equal, o.num_excused, o.num_different)))
    return table


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m evaluation.exactness", description=__doc__.split("\n\n")[0])
    parser.add_argument("--address", required=True, help="orchestrator of a running reference pair, HOST:PORT")
    parser.add_argument("--weights", type=Path, default=WEIGHTS_DIR, help="the pair's folder (default: as shipped)")
    parser.add_argument(
        "--rules", nargs="+", type=RuleSpec.parse, default=[RuleSpec(rule.name) for rule in SHIPPED], metavar="RULE",
        help="as NAME or NAME:PARAMETER=NUMBER,… (default: all that are shipped)",
    )  # fmt: skip
    parser.add_argument("--prompts", type=int, default=100, help="held-out queries (default: 100)")
    parser.add_argument("--depths", type=int, nargs="+", default=[0, 4, 16], help="run-ahead depths")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 16], help="concurrent streams")
    parser.add_argument("--json", type=Path, help="also write the outcomes to this file")
    return parser.parse_args()


def main() -> int:
    """Entry point. Returns 1 if anything differs that isn't a near tie."""
    arguments = _parse_arguments()
    torch.set_num_threads(1)
    pair = load_pair(arguments.weights)
    prompts = suite_prompts(pair, arguments.prompts)
    try:
        rules = [pair.rule(spec.name, **spec.parameters) for spec in arguments.rules]
    except RuleError as error:
        raise SystemExit(f"--rules: {error}") from error
    references = [
        reference
        for sampled in (False, True)
        for reference in reference_decodings(pair, prompts, rules, sampled=sampled)
    ]
    outcomes = asyncio.run(
        compare(arguments.address, references, depths=arguments.depths, concurrencies=arguments.streams)
    )
    Console().print(_table(outcomes))
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(outcome) for outcome in outcomes], indent=1) + "\n")
    return int(any(outcome.num_different for outcome in outcomes))


if __name__ == "__main__":
    raise SystemExit(main())
