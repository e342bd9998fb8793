"""What a shadow and a sample say of live traffic is what the answers alone say, whatever happens to the replicas."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from trivium.v1 import slm_pb2

from services.common.rule_spec import RuleSpec
from services.common.tensors import pack
from services.engines.base import SamplingParams
from services.engines.fakes import fake_next_token
from services.orchestrator.learning.learning import Learning
from services.orchestrator.learning.sample import SampledDraft, Sampler, SequenceSample
from services.orchestrator.learning.shadow import Outcome, Shadow, ShadowCounts, check_shadow
from services.orchestrator.requests.task import GenerationTask
from services.orchestrator.routing.actions import AcceptedToken, AskLlm, Source
from services.rules.chosen import ChosenRule
from services.rules.decider import Decider, Draft, Verdict
from services.rules.registry import Rules
from services.rules.rule import RuleError
from tests.rules import router_rule
from tests.serving import until
from tests.unit.orchestrator.cluster import (
    FakeReplica,
    RouterReplica,
    divergence_probability,
    llm_replica,
    make_task,
    reference_decoding,
    running_cluster,
    slm_replica,
)
from tests.unit.orchestrator.test_rules import Broken, Impatient, OwnScore

RULES = Rules([*Rules(), OwnScore(), Impatient(), Broken()])
OTHER_WEIGHTS = "40"
"""Of the router that decides nothing."""


@dataclass(frozen=True)
class Decided:
    """A position of an answer, as the reference decoding has it."""

    prefix: tuple[int, ...]
    draft: int
    token: int
    asked: bool

    @property
    def outcome(self) -> Outcome:
        if not self.asked:
            return Outcome.STOOD
        return Outcome.CONFIRMED if self.token == self.draft else Outcome.REPLACED


def decided(task: GenerationTask) -> Iterator[Decided]:
    prefix = task.prompt_token_ids
    decider = task.rule.decider()
    for token, by_llm in reference_decoding(task):
        draft = fake_next_token("slm", prefix)
        score = divergence_probability(draft, task.rule.router_weights)
        asked = decider.verdict(Draft(len(prefix), draft, score)) is not Verdict.ACCEPT
        decider.accepted(token, by_llm=by_llm, score=score)
        yield Decided(prefix, draft, token, asked)
        prefix = (*prefix, token)


def offline(tasks: list[GenerationTask], shadow: ChosenRule) -> tuple[Counter[Outcome], Counter[Outcome]]:
    """What the shadow would have accepted, and what it would have asked about."""
    accepted: Counter[Outcome] = Counter()
    asked: Counter[Outcome] = Counter()
    for task in tasks:
        decider = shadow.decider()
        for each in decided(task):
            score = divergence_probability(each.draft, shadow.router_weights)
            verdict = decider.verdict(Draft(len(each.prefix), each.draft, score))
            (accepted if verdict is Verdict.ACCEPT else asked)[each.outcome] += 1
            decider.accepted(each.token, by_llm=each.asked and each.outcome is not Outcome.STOOD, score=score)
    return accepted, asked


def traffic(**fields: Any) -> list[GenerationTask]:
    rules = [router_rule(0.5), router_rule(0.1), ChosenRule.of(OwnScore()), ChosenRule.of(Impatient())]
    return [
        make_task(f"{number}-{index}", prompt_token_ids=(5, 6 + number, 7), rule=rule, **fields)
        for number in range(4)
        for index, rule in enumerate(rules)
    ]


def shadow_of(spec: str, share: float = 1.0) -> Shadow:
    return Shadow(RULES, RuleSpec.parse(spec), share, random.Random(1))


async def lose_some(replicas: list[FakeReplica], draw: random.Random) -> None:
    for _ in range(6):
        await asyncio.sleep(draw.uniform(0.05, 0.2))
        replica = draw.choice(replicas)
        await replica.kill()
        await replica.start()


async def settled(shadow: Shadow, number: int) -> None:
    def count() -> int:
        counts = shadow.counts
        return counts.num_accepted.total() + counts.num_asked.total() + counts.num_unscored

    await until(lambda: count() == number, timeout_s=30)


@pytest.mark.parametrize("depth", [0, 5])
@pytest.mark.parametrize("spec", ["router:threshold=0.3", "own:threshold=0.7", "impatient", "lossless"])
async def test_shadow_counts_are_those_of_the_answers(spec: str, depth: int) -> None:
    shadow = shadow_of(spec)
    async with running_cluster(
        slms=[slm_replica(), slm_replica()],
        llms=[llm_replica(), llm_replica()],
        routers=[RouterReplica(shadow=OTHER_WEIGHTS), RouterReplica(shadow=OTHER_WEIGHTS)],
        learning=Learning(shadow),
        run_ahead_depth=depth,
    ) as cluster:
        asked = traffic()
        found = await asyncio.gather(*(cluster.run(task) for task in asked))
        assert found == [reference_decoding(task) for task in asked]
        await settled(shadow, sum(map(len, found)))
    named = RuleSpec.parse(spec)
    weights = OTHER_WEIGHTS if named.name == "router" else ""
    rule = replace(ChosenRule.of(RULES.named(named.name), named.parameters), router_weights=weights)
    assert (shadow.counts.num_accepted, shadow.counts.num_asked) == offline(asked, rule)
    assert shadow.counts.num_unscored == 0
    assert len(shadow.counts.num_accepted) + len(shadow.counts.num_asked) > 2


async def test_shadow_counts_survive_the_loss_of_slms_and_llms_and_count_no_draft_twice() -> None:
    draw, shadow = random.Random(2), shadow_of("own:threshold=0.7")
    slms, llms = [slm_replica(), slm_replica()], [llm_replica(), llm_replica()]
    async with running_cluster(slms=slms, llms=llms, learning=Learning(shadow)) as cluster:
        asked = traffic(max_new_tokens=150)
        losing = lose_some([*slms, *llms], draw)
        _, *found = await asyncio.gather(losing, *(cluster.run(task) for task in asked))
        assert found == [reference_decoding(task) for task in asked]
    rule = ChosenRule.of(RULES.named("own"), {"threshold": 0.7})
    assert (shadow.counts.num_accepted, shadow.counts.num_asked) == offline(asked, rule)


async def test_shadow_scores_that_are_lost_are_counted_and_cost_no_sequence_anything() -> None:
    shadow = shadow_of("router")
    router = RouterReplica(shadow=OTHER_WEIGHTS)
    async with running_cluster(routers=[router], learning=Learning(shadow)) as cluster:
        asked = [make_task(f"s{number}", prompt_token_ids=(5, 6 + number, 7), rule=ChosenRule.of(OwnScore()),
                           max_new_tokens=150) for number in range(8)]  # fmt: skip
        running = asyncio.gather(*(cluster.run(task) for task in asked))
        await until(lambda: shadow.counts.num_accepted.total() > 0, timeout_s=30)
        await router.kill()
        found = await running
        assert found == [reference_decoding(task) for task in asked]
        await settled(shadow, sum(map(len, found)))
        assert shadow.counts.num_unscored > 0


async def test_router_service_without_a_second_router_has_no_shadow() -> None:
    shadow = shadow_of("router")
    async with running_cluster(learning=Learning(shadow)) as cluster:
        task = make_task()
        assert await cluster.run(task) == reference_decoding(task)
    assert vars(shadow.counts) == vars(ShadowCounts())


async def test_share_of_the_requests_alone_is_looked_at() -> None:
    shadow = shadow_of("own", share=0.5)
    async with running_cluster(learning=Learning(shadow)) as cluster:
        asked = traffic() * 4
        lengths = []
        for number, task in enumerate(asked):
            lengths.append(len(await cluster.run(replace(task, request_id=f"t{number}"))))
    counted = shadow.counts.num_accepted.total() + shadow.counts.num_asked.total()
    assert 0.3 * sum(lengths) < counted < 0.7 * sum(lengths)


async def test_shadow_whose_rule_fails_costs_nothing_but_its_counts(caplog: pytest.LogCaptureFixture) -> None:
    shadow = shadow_of("broken")
    async with running_cluster(learning=Learning(shadow)) as cluster:
        task = make_task(max_new_tokens=60)
        found = await cluster.run(task)
        assert found == reference_decoding(task)
        await settled(shadow, len(found))
    assert shadow.counts.num_unscored == len(found)
    # Once, and not with each draft.
    assert sum("failed to score" in record.getMessage() for record in caplog.records) == 1


class Stillborn(OwnScore):
    """Can't begin with a sequence."""

    name = "stillborn"

    def decider(self, parameters: Mapping[str, float]) -> Decider:
        raise RuntimeError("no decider today")


async def test_shadow_that_can_not_begin_costs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    shadow = Shadow(Rules([Stillborn()]), RuleSpec("stillborn"), 1.0, random.Random(1))
    async with running_cluster(learning=Learning(shadow)) as cluster:
        task = make_task()
        assert await cluster.run(task) == reference_decoding(task)
    assert vars(shadow.counts) == vars(ShadowCounts())
    assert "rule stillborn failed as a shadow" in caplog.text


@pytest.mark.parametrize(
    ("spec", "message"),
    [("nothing", "no rule 'nothing'"), ("own:threshold=nan", "threshold"), ("own:other=1", "other")],
)
def test_shadow_that_can_not_be_is_refused(spec: str, message: str) -> None:
    with pytest.raises(RuleError, match=message):
        shadow_of(spec)


def test_shadow_that_needs_a_router_is_refused_where_there_is_none() -> None:
    with pytest.raises(RuleError, match=r"^router needs a router service with a shadow_checkpoint"):
        check_shadow(RuleSpec("router"), RULES, has_router=False)
    check_shadow(RuleSpec("router"), RULES, has_router=True)
    check_shadow(RuleSpec("own"), RULES, has_router=False)


class Kept:
    """What a sampler has kept."""

    def __init__(self) -> None:
        self.drafts: list[tuple[SampledDraft, int]] = []

    def __call__(self, draft: SampledDraft, llm_token_id: int) -> None:
        self.drafts.append((draft, llm_token_id))


def sampler(kept: Kept, share: float = 1.0) -> Sampler:
    return Sampler(share, kept, random.Random(3))


@pytest.mark.parametrize("depth", [0, 5])
async def test_sample_tells_what_both_models_say_after_what_was_written(depth: int) -> None:
    kept = Kept()
    async with running_cluster(learning=Learning(None, sampler(kept)), run_ahead_depth=depth) as cluster:
        asked = traffic()
        found = await asyncio.gather(*(cluster.run(task) for task in asked))
        assert found == [reference_decoding(task) for task in asked]
    by_answer: dict[int, dict[int, tuple[int, int]]] = {}
    for draft, llm_token_id in kept.drafts:
        answer = by_answer.setdefault(draft.query_id, {})
        assert draft.position not in answer
        answer[draft.position] = (draft.token_id, llm_token_id)
    expected = [[(each.draft, fake_next_token("llm", each.prefix)) for each in decided(task)] for task in asked]
    for answer in by_answer.values():
        # An answer's own drafts are told by the positions and tokens of all of them.
        assert any(
            all(position < len(answers) and answers[position] == tokens for position, tokens in answer.items())
            for answers in expected
        )
    # The LLM reads over every position before its last question, those where the draft stood included.
    num_asked = sum(each.asked for task in asked for each in decided(task))
    assert len(kept.drafts) > 1.5 * num_asked


async def test_sample_survives_the_loss_of_replicas() -> None:
    draw, kept = random.Random(5), Kept()
    slms, llms = [slm_replica(), slm_replica()], [llm_replica(), llm_replica()]
    async with running_cluster(slms=slms, llms=llms, learning=Learning(None, sampler(kept))) as cluster:
        asked = traffic(max_new_tokens=150)
        losing = lose_some([*slms, *llms], draw)
        _, *found = await asyncio.gather(losing, *(cluster.run(task) for task in asked))
        assert found == [reference_decoding(task) for task in asked]
    expected = {
        (index, each.draft, fake_next_token("llm", each.prefix))
        for task in asked
        for index, each in enumerate(decided(task))
    }
    assert {(draft.position, draft.token_id, token) for draft, token in kept.drafts} <= expected


async def test_sample_has_a_share_of_the_drafts_and_none_of_drawn_answers_or_of_those_without_an_llm() -> None:
    kept = Kept()
    async with running_cluster(learning=Learning(None, sampler(kept, share=0.2))) as cluster:
        asked = traffic()
        found = await asyncio.gather(*(cluster.run(task) for task in asked))
        num_kept = len(kept.drafts)
        assert 0.05 * sum(map(len, found)) < num_kept < 0.35 * sum(map(len, found))
        await cluster.run(make_task("drawn", sampling=SamplingParams(temperature=1.0, seed=1)))
        await cluster.run(make_task("alone", rule=ChosenRule.of(RULES.named("slm"))))
    assert len(kept.drafts) == num_kept


def features(values: NDArray[np.float32]) -> slm_pb2.DraftResponse:
    return slm_pb2.DraftResponse(
        token_ids=range(len(values)),
        hidden_states=pack(values),
        top_logits=pack(np.ones((len(values), 3), np.float32)),
    )


def test_features_that_can_not_be_kept_cost_their_draft_alone() -> None:
    kept = Kept()
    sequence = SequenceSample(5, 1.0, kept, random.Random(3))
    step = features(np.array([[1, 2], [np.nan, 3], [4, 5]], np.float32))
    for row in range(3):
        sequence.drafted(5 + row, row, step, row)
    sequence.accepted([AcceptedToken(9, Source.LLM, 0.0)] * 3)
    # Whoever writes them leaves out what isn't finite.
    found = {draft.position: draft.hidden_state.tolist() for draft, _ in kept.drafts}
    assert (found[0], found[2]) == ([1, 2], [4, 5])
    assert np.isnan(found[1][0])


def test_llm_that_is_asked_late_is_asked_about_few_drafts_of_the_sample() -> None:
    kept = Kept()
    sequence = SequenceSample(5, 1.0, kept, random.Random(3))
    step = features(np.ones((1, 2), np.float32))
    for index in range(1000):
        sequence.drafted(5 + index, 1, step, 0)
        sequence.accepted([AcceptedToken(1, Source.SLM, 0.0)])
    positions = sequence.question(AskLlm(1, 0, (1,) * 1005, (1005,)))
    assert 10 < len(positions) < 100
    assert positions[-1] == 1005
    assert sequence.answer(1, [7] * len(positions)) == [7]
    assert len(kept.drafts) == len(positions) - 1
