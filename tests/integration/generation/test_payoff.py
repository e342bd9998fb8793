"""`evaluation.speed.payoff` before a running pair: what it records is what the pair decides."""

from evaluation.exactness import Reference
from evaluation.in_process import SLM_ONLY
from evaluation.reference.pair import LoadedPair
from evaluation.speed.payoff.decode import decode
from evaluation.speed.payoff.streams import PairStreams
from evaluation.speed.payoff.study import PLAIN, RULES, StudyOptions, run_study
from evaluation.speed.payoff.trace import flags
from evaluation.speed.payoff.verdict import judge
from services.rules.chosen import ChosenRule
from services.rules.registry import Rules
from tests.integration.harness.pair import RunningPair


def addresses(pair: RunningPair) -> dict[str, str]:
    replicas = {"slm": pair.slm, "router": pair.router, "llm": pair.llm, "orchestrator": pair.front}
    return {name: replica.address for name, replica in replicas.items()}


async def test_recorded_decisions_are_those_of_the_reference_decoding(
    pair: RunningPair, reference_pair: LoadedPair, references: list[Reference]
) -> None:
    threshold = reference_pair.description.threshold
    rule = ChosenRule.of(Rules().named("router"), {"threshold": threshold})
    routed = [reference for reference in references if 0 < reference.threshold < SLM_ONLY]
    async with PairStreams(addresses(pair)) as streams:
        assert streams.router_threshold == threshold
        for reference in routed[:3]:
            trace = await decode(streams, rule, reference.prompt_token_ids, len(reference.completion) + 10)
            assert list(flags(rule, trace)) == [token.from_llm for token in reference.completion]


def test_study_tells_every_rule_s_share_and_speed(pair: RunningPair, references: list[Reference]) -> None:
    options = StudyOptions(num_prompts=1, max_new_tokens=24, num_streams=2, depth=4, rounds=1, repetitions=1)
    study = run_study(addresses(pair), [reference.prompt_token_ids for reference in references], options)
    assert study.measured.keys() == {(name, depth) for name in (PLAIN, *RULES) for depth in (0, 4)}
    assert all(speed > 0 for speeds in study.measured.values() for speed in speeds)
    rows = {row.rule: row for row in judge(study, options).rules}
    assert rows.keys() == set(RULES)
    assert (rows["slm"].llm_share, rows["llm"].llm_share, rows["lossless"].llm_share) == (0.0, 1.0, 1.0)
    assert rows["slm"].tokens_per_s > rows["llm"].tokens_per_s_waiting
