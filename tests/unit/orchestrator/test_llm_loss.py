"""What a request does when no LLM replica is left is its own choice."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from services.common.errors import PeerUnavailable
from services.engines.fakes import FakeLlmEngine, FakeSlmEngine, fake_next_token
from services.orchestrator.requests.task import GenerationTask, LlmLossPolicy
from services.orchestrator.routing.actions import AcceptedToken, Source
from tests.serving import until
from tests.unit.orchestrator.cluster import (
    EOS,
    Cluster,
    divergence_probability,
    llm_replica,
    make_task,
    reference_decoding,
    running_cluster,
    slm_replica,
)

PATIENCE_S = 60.0
GRACE_S = 0.2
# Neither model ends it before its 240 tokens are over.
LONG: dict[str, Any] = {"prompt_token_ids": (5, 13, 7), "max_new_tokens": 240, "threshold": 0.0}


class _SteppedLlm(FakeLlmEngine):
    """An LLM that answers as often as it may."""

    def __init__(self, options: Any) -> None:
        super().__init__(options)
        self.steps = asyncio.Semaphore(0)

    async def step(self) -> Any:
        await self.steps.acquire()
        return await super().step()


class _PausedSlm(FakeSlmEngine):
    """An SLM that can be held up."""

    def __init__(self, options: Any) -> None:
        super().__init__(options)
        self.may_draft = asyncio.Event()
        self.may_draft.set()

    async def step(self) -> Any:
        await self.may_draft.wait()
        return await super().step()


async def _collect(cluster: Cluster, task: GenerationTask, into: list[AcceptedToken]) -> None:
    async with cluster.driver.sequence(task) as sequence:
        async for part in sequence.answer.parts(0):
            into += part.tokens


def _assert_follows_the_rule(task: GenerationTask, tokens: list[AcceptedToken]) -> None:
    prefix = list(task.prompt_token_ids)
    for token in tokens:
        draft = fake_next_token("slm", prefix)
        routed = divergence_probability(draft) >= task.rule.parameters["threshold"]
        assert (token.source is Source.SLM) == (not routed)
        assert token.token_id == (fake_next_token("llm", prefix) if token.source is Source.LLM else draft)
        prefix.append(token.token_id)
    assert len(tokens) == task.max_new_tokens or tokens[-1].token_id == EOS


async def test_wait_pauses_until_an_llm_is_back() -> None:
    async with running_cluster(llm_grace_s=0) as cluster:
        (llm,) = cluster.llms
        await llm.kill()
        await until(lambda: len(cluster.driver.llm.links.available) == 0, timeout_s=PATIENCE_S)
        task = make_task()
        running = asyncio.create_task(cluster.run(task))
        await asyncio.sleep(3 * GRACE_S)
        assert not running.done()
        await llm.start()
        async with asyncio.timeout(PATIENCE_S):
            assert await running == reference_decoding(task)


async def test_fail_ends_running_and_new_requests_with_unavailable_after_the_grace_period() -> None:
    async with running_cluster(llm_grace_s=GRACE_S) as cluster:
        (llm,) = cluster.llms
        task = make_task(**LONG, llm_loss_policy=LlmLossPolicy.FAIL)
        running = asyncio.create_task(cluster.run(task))
        await until(lambda: cluster.driver.num_peer_messages > 20, timeout_s=PATIENCE_S)
        assert not running.done()
        await llm.kill()
        await until(lambda: len(cluster.driver.llm.links.available) == 0, timeout_s=PATIENCE_S)
        loop = asyncio.get_running_loop()
        began = loop.time()
        with pytest.raises(PeerUnavailable, match="llm: no replica"):
            await running
        assert loop.time() - began > GRACE_S / 2
        # The LLM is known to be lost by now.
        with pytest.raises(PeerUnavailable, match="llm: no replica"):
            await cluster.run(make_task(llm_loss_policy=LlmLossPolicy.FAIL))
        await until(lambda: cluster.slms[0].num_sequences == 0, timeout_s=PATIENCE_S)
        await llm.start()


async def test_fail_spares_a_request_that_never_asks_the_llm() -> None:
    async with running_cluster(llm_grace_s=0) as cluster:
        (llm,) = cluster.llms
        await llm.kill()
        await until(lambda: len(cluster.driver.llm.links.available) == 0, timeout_s=PATIENCE_S)
        task = make_task(threshold=2.0, llm_loss_policy=LlmLossPolicy.FAIL)
        async with asyncio.timeout(PATIENCE_S):
            assert await cluster.run(task) == reference_decoding(task)
        await llm.start()


async def test_slm_only_goes_on_after_the_grace_period_and_routes_again_once_an_llm_is_back() -> None:
    stepped, slm = llm_replica(_SteppedLlm), slm_replica(_PausedSlm)
    async with running_cluster(slms=[slm], llms=[stepped], llm_grace_s=GRACE_S) as cluster:
        # Each token needs the LLM, one at a time.
        task = make_task(**LONG, run_ahead_depth=0, llm_loss_policy=LlmLossPolicy.SLM_ONLY)
        tokens: list[AcceptedToken] = []
        running = asyncio.create_task(_collect(cluster, task, tokens))
        for _ in range(5):
            stepped.engine.steps.release()
        await until(lambda: len(tokens) == 5, timeout_s=PATIENCE_S)
        assert [(token.token_id, True) for token in tokens] == reference_decoding(task)[:5]
        await stepped.kill()
        await until(lambda: any(token.source is Source.SLM_FALLBACK for token in tokens), timeout_s=PATIENCE_S)
        slm.engine.may_draft.clear()
        await stepped.start()
        await until(lambda: len(cluster.driver.llm.links.available) == 1, timeout_s=PATIENCE_S)
        slm.engine.may_draft.set()
        for _ in range(300):
            stepped.engine.steps.release()
        async with asyncio.timeout(PATIENCE_S):
            await running
    sources = [token.source for token in tokens]
    assert sources[:5] == [Source.LLM] * 5
    assert sources[5] is Source.SLM_FALLBACK
    assert sources[-1] is Source.LLM
    _assert_follows_the_rule(task, tokens)


async def test_slm_only_request_that_comes_when_the_llm_is_lost_runs_on_the_slm_alone() -> None:
    async with running_cluster(llm_grace_s=0) as cluster:
        (llm,) = cluster.llms
        await llm.kill()
        await until(lambda: len(cluster.driver.llm.links.available) == 0, timeout_s=PATIENCE_S)
        task = make_task(llm_loss_policy=LlmLossPolicy.SLM_ONLY)
        tokens: list[AcceptedToken] = []
        async with asyncio.timeout(PATIENCE_S), cluster.driver.sequence(task) as sequence:
            async for part in sequence.answer.parts(0):
                tokens += part.tokens
        assert (
            sequence.answer.count(Source.SLM_FALLBACK)
            == sum(token.source is Source.SLM_FALLBACK for token in tokens)
            > 0
        )
        slm_only = reference_decoding(make_task(threshold=2.0))
        assert [token.token_id for token in tokens] == [token_id for token_id, _ in slm_only]
        _assert_follows_the_rule(task, tokens)
        await llm.start()


async def test_llm_back_within_the_grace_period_leaves_no_mark() -> None:
    async with running_cluster(llm_grace_s=30) as cluster:
        (llm,) = cluster.llms
        task = make_task(**LONG, llm_loss_policy=LlmLossPolicy.SLM_ONLY)
        running = asyncio.create_task(cluster.run(task))
        await until(lambda: cluster.driver.num_peer_messages > 20, timeout_s=PATIENCE_S)
        await llm.kill()
        await asyncio.sleep(GRACE_S)
        await llm.start()
        async with asyncio.timeout(PATIENCE_S):
            assert await running == reference_decoding(task)
