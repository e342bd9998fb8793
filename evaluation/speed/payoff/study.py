"""Finds out whether a running pair pays off: step times, what rules decide, and if asked, the true speed.

Owns the order in which things are asked of the pair, and of its orchestrator, which adds to the steps; the prediction
itself is `evaluation.speed.payoff.model`'s.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from evaluation.speed.payoff.decode import decode
from evaluation.speed.payoff.passage import Passage, passages
from evaluation.speed.payoff.probe import StepProbe
from evaluation.speed.payoff.streams import PairStreams, new_sequence_id
from evaluation.speed.payoff.times import StepTimes
from evaluation.speed.payoff.trace import RuleTraces
from services.client import AsyncClient, Options, tokens_request
from services.rules.chosen import THRESHOLD, ChosenRule
from services.rules.registry import Rules
from services.rules.rule import Evidence

RULES = ("router", "entropy", "margin", "lossless", "slm", "llm")
"""The rules that are compared."""
PLAIN = "plain LLM"


@dataclass(frozen=True, slots=True)
class StudyOptions:
    """How much is asked of the pair.

    Args:
        num_prompts: Answers that each rule writes.
        max_new_tokens: Limit of an answer.
        num_streams: The other number of streams, beside 1.
        depth: The other run-ahead depth, beside 0.
        rounds: Times that step times are measured.
        repetitions: Times that each rule's true speed is measured; 0 doesn't.
    """

    num_prompts: int = 6
    max_new_tokens: int = 256
    num_streams: int = 8
    depth: int = 12
    rounds: int = 5
    repetitions: int = 0


@dataclass(frozen=True, slots=True)
class Study:
    """What was found out.

    Args:
        times: Step times.
        traces: What each rule decided, by its name.
        passages: Settings that tell what the orchestrator adds.
        passage_speeds: Tokens/s of each of them, one stream, one value a round.
        measured: Tokens/s of a rule at a depth, one stream, one value a repetition; `PLAIN` is the plain LLM beside
            the rules of that depth.
    """

    times: StepTimes
    traces: Mapping[str, RuleTraces]
    passages: Mapping[str, Passage]
    passage_speeds: Mapping[str, Sequence[float]]
    measured: Mapping[tuple[str, int], Sequence[float]] = field(default_factory=dict)


def default_rules(router_threshold: float | None, rules: Rules) -> list[ChosenRule]:
    """The rules that are compared, at their defaults; the router's where there is one."""
    chosen = []
    for name in RULES:
        rule = rules.named(name)
        if rule.evidence is not Evidence.ROUTER:
            chosen.append(ChosenRule.of(rule))
        elif router_threshold is not None:
            chosen.append(ChosenRule.of(rule, {THRESHOLD: router_threshold}))
    return chosen


def run_study(
    addresses: Mapping[str, str],
    prompts: Sequence[Sequence[int]],
    options: StudyOptions,
    on_step: Callable[[str], None] = lambda _what: None,
) -> Study:
    """Studies a running pair.

    Args:
        addresses: "host:port" of slm, llm and orchestrator, and of router if there is one.
        prompts: Token ids of at least one prompt; they are asked in turn.
        options: How much is asked.
        on_step: Told what comes next.

    Raises:
        PeerUnavailable: A service refuses a sequence, or is gone.
        CallFailed: The orchestrator does.
    """
    return asyncio.run(_study(addresses, prompts, options, on_step))


async def _study(
    addresses: Mapping[str, str],
    prompts: Sequence[Sequence[int]],
    options: StudyOptions,
    on_step: Callable[[str], None],
) -> Study:
    in_turn = itertools.cycle(prompts)
    async with PairStreams(addresses) as pair, AsyncClient(addresses["orchestrator"]) as client:
        rules = default_rules(pair.router_threshold, Rules.installed())
        on_step("what each rule decides")
        traces = await _traces(pair, rules, list(itertools.islice(in_turn, options.num_prompts)), options)
        probe = StepProbe(pair, prompts, options.num_streams)
        ways = passages(Rules.installed(), options.depth, has_router=pair.router is not None)
        way_speeds: dict[str, list[float]] = defaultdict(list)
        measured: dict[tuple[str, int], list[float]] = defaultdict(list)
        # A first round warms caches and allocators.
        await StepProbe(pair, prompts, options.num_streams, seed=1).round()
        for number in range(max(options.rounds, options.repetitions)):
            on_step(f"step times, round {number + 1}")
            await probe.round()
            for name, way in ways.items():
                some = list(itertools.islice(in_turn, options.num_prompts))
                way_speeds[name].append(await _tokens_per_s(client, way.rule, way.depth, some, options))
            if number < options.repetitions:
                on_step(f"true speeds, round {number + 1}")
                await _measure(pair, client, rules, in_turn, options, measured)
    return Study(probe.times(), traces, ways, way_speeds, measured)


async def _traces(
    pair: PairStreams, rules: Iterable[ChosenRule], prompts: Sequence[Sequence[int]], options: StudyOptions
) -> dict[str, RuleTraces]:
    traces: dict[str, RuleTraces] = {}
    for rule in rules:
        if rule.rule.name == "llm" and "lossless" in traces:
            # It writes the same, and the same is asked.
            traces["llm"] = RuleTraces(rule, traces["lossless"].traces)
            continue
        answers = [await decode(pair, rule, prompt, options.max_new_tokens) for prompt in prompts]
        traces[rule.rule.name] = RuleTraces(rule, tuple(answers))
    return traces


async def _measure(
    pair: PairStreams,
    client: AsyncClient,
    rules: Sequence[ChosenRule],
    prompts: Iterator[Sequence[int]],
    options: StudyOptions,
    measured: dict[tuple[str, int], list[float]],
) -> None:
    """One repetition: at each depth the plain LLM, then each rule, on prompts of their own."""

    def some() -> list[Sequence[int]]:
        return list(itertools.islice(prompts, options.num_prompts))

    for depth in (0, options.depth):
        chosen, start = some(), time.perf_counter()
        counts = [await _write_plainly(pair, prompt, options.max_new_tokens) for prompt in chosen]
        measured[PLAIN, depth].append(sum(counts) / (time.perf_counter() - start))
        for rule in rules:
            measured[rule.rule.name, depth].append(await _tokens_per_s(client, rule, depth, some(), options))


async def _tokens_per_s(
    client: AsyncClient, rule: ChosenRule, depth: int, prompts: Sequence[Sequence[int]], options: StudyOptions
) -> float:
    """Has the pair write answers, one after the other."""
    asked = Options(
        max_new_tokens=options.max_new_tokens, rule=rule.rule.name, threshold=rule.threshold, run_ahead_depth=depth
    )
    start = time.perf_counter()
    counts = [len((await client.complete(tokens_request(prompt, asked))).token_ids) for prompt in prompts]
    return sum(counts) / (time.perf_counter() - start)


async def _write_plainly(pair: PairStreams, prompt: Sequence[int], max_new_tokens: int) -> int:
    """Has the LLM write an answer by itself, a token a pass. Returns its number of tokens."""
    sequence_id, tokens, held = new_sequence_id(), list(prompt), 0
    while len(tokens) < len(prompt) + max_new_tokens and (not held or tokens[-1] not in pair.eos_token_ids):
        answer = await pair.llm.extend(sequence_id, held, tokens[held:], [len(tokens)])
        held = len(tokens)
        tokens += answer.token_ids
    await pair.llm.release(sequence_id)
    return len(tokens) - len(prompt)
