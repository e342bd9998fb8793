"""Sequences of every kind of rule: where their scores come from, and what they can do without."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from services.common.errors import PeerUnavailable, TriviumError
from services.orchestrator.requests.task import GenerationTask, LlmLossPolicy
from services.rules.chosen import ChosenRule
from services.rules.decider import Decider, Draft, Threshold, Verdict
from services.rules.rule import DraftRows, Evidence, Parameter
from services.rules.shipped import LlmRule, LosslessRule, RandomRule, SlmRule
from tests.rules import router_rule
from tests.serving import until
from tests.unit.orchestrator.cluster import (
    VOCAB_SIZE,
    divergence_probability,
    llm_replica,
    make_task,
    reference_decoding,
    running_cluster,
    slm_replica,
)


class OwnScore:
    """Scores as the fake router does, without one."""

    name = "own"
    version = "1"
    evidence = Evidence.SLM
    needs_llm = True
    parameters: Mapping[str, Parameter] = {"threshold": Parameter("", default=0.5)}

    def scores(self, rows: DraftRows) -> NDArray[np.float32]:
        assert len(rows.top_logits) == len(rows.token_ids)
        return np.array([divergence_probability(int(token_id)) for token_id in rows.token_ids], dtype=np.float32)

    def decider(self, parameters: Mapping[str, float]) -> Decider:
        return Threshold(parameters["threshold"])


class Impatient(OwnScore):
    """Keeps state: after three drafts in a row that stood, the LLM is asked."""

    name = "impatient"

    def decider(self, parameters: Mapping[str, float]) -> Decider:
        return _ImpatientDecider()


class _ImpatientDecider:
    in_order = True

    def __init__(self) -> None:
        self._num_stood = 0

    def verdict(self, draft: Draft) -> Verdict:
        return Verdict.ASK if self._num_stood >= 3 or draft.score > 0.9 else Verdict.ACCEPT

    def accepted(self, token_id: int, *, by_llm: bool, score: float) -> None:
        self._num_stood = 0 if by_llm else self._num_stood + 1


class Broken(OwnScore):
    """Gives what isn't a number."""

    name = "broken"

    def scores(self, rows: DraftRows) -> NDArray[np.float32]:
        return np.full(len(rows.token_ids), np.nan, dtype=np.float32)


RULES: dict[str, Any] = {
    "router": router_rule(0.5),
    "own": ChosenRule.of(OwnScore()),
    "impatient": ChosenRule.of(Impatient()),
    "lossless": ChosenRule.of(LosslessRule()),
    "slm": ChosenRule.of(SlmRule()),
    "llm": ChosenRule.of(LlmRule()),
    "random": ChosenRule.of(RandomRule(), {"rate": 0.3}),
}


def tasks(names: list[str], *, num_each: int = 3, **fields: Any) -> list[GenerationTask]:
    return [
        make_task(f"{name}-{number}", prompt_token_ids=(5, 6 + number, 7), rule=RULES[name], **fields)
        for name in names
        for number in range(num_each)
    ]


@pytest.mark.parametrize("depth", [0, 5])
async def test_sequences_of_all_rules_beside_each_other_are_their_references(depth: int) -> None:
    async with running_cluster(slms=[slm_replica(), slm_replica()], llms=[llm_replica(), llm_replica()]) as cluster:
        asked = tasks(list(RULES), run_ahead_depth=depth)
        found = await asyncio.gather(*(cluster.run(task) for task in asked))
        assert found == [reference_decoding(task) for task in asked]
        # What can differ does: else rules might be mixed up unseen.
        assert len({tuple(tokens) for tokens in found}) > 3 * 4


async def test_pair_without_a_router_serves_rules_that_need_none() -> None:
    async with running_cluster(router=()) as cluster:
        asked = tasks([name for name in RULES if name != "router"])
        found = await asyncio.gather(*(cluster.run(task) for task in asked))
        assert found == [reference_decoding(task) for task in asked]


async def test_router_that_goes_costs_those_alone_that_need_it() -> None:
    async with running_cluster(peer_grace_s=0, default_evidence=Evidence.SLM) as cluster:
        (router,) = cluster.routers
        await router.kill()
        await until(lambda: cluster.driver.router.presence.is_gone, timeout_s=90)
        asked = tasks(["own", "slm"])
        assert await asyncio.gather(*(cluster.run(task) for task in asked)) == [
            reference_decoding(task) for task in asked
        ]
        with pytest.raises(PeerUnavailable, match=r"^router: no replica"):
            await cluster.run(make_task())
        assert cluster.presence == []


async def test_rule_that_never_asks_runs_without_an_llm() -> None:
    async with running_cluster(llm_grace_s=0) as cluster:
        (llm,) = cluster.llms
        await llm.kill()
        await until(lambda: cluster.driver.llm.presence.is_gone, timeout_s=90)
        for task in tasks(["slm"], llm_loss_policy=LlmLossPolicy.FAIL):
            assert await cluster.run(task) == reference_decoding(task)
        with pytest.raises(PeerUnavailable, match=r"^llm: no replica"):
            await cluster.run(make_task(rule=RULES["own"], llm_loss_policy=LlmLossPolicy.FAIL))


async def test_rule_that_fails_costs_its_own_sequences(caplog: pytest.LogCaptureFixture) -> None:
    async with running_cluster() as cluster:
        others = tasks(["own", "router"])
        broken = make_task("broken", rule=ChosenRule.of(Broken()))
        running = [asyncio.create_task(cluster.run(task)) for task in others]
        with pytest.raises(TriviumError, match=r"^rule: broken failed"):
            await cluster.run(broken)
        assert await asyncio.gather(*running) == [reference_decoding(task) for task in others]
    assert "rule broken failed to score drafts" in caplog.text


async def test_tokens_are_counted_by_rule() -> None:
    async with running_cluster() as cluster:
        task = make_task(rule=RULES["own"])
        got = await cluster.run(task)
        counts = cluster.driver.counts.by_rule["own@1"]
        assert (counts.num_tokens, counts.num_llm_tokens) == (len(got), sum(by_llm for _, by_llm in got))


def test_requests_of_different_rules_have_different_fingerprints() -> None:
    prints = {make_task(rule=rule).fingerprint() for rule in RULES.values()}
    assert len(prints) == len(RULES)
    other = ChosenRule.of(RandomRule(), {"rate": 0.3, "seed": VOCAB_SIZE})
    assert make_task(rule=other).fingerprint() not in prints
