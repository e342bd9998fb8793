"""Replicas that are alive and silent, and services that are gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from services.common.errors import PeerUnavailable
from services.orchestrator.requests.task import LlmLossPolicy
from services.orchestrator.routing.actions import Source
from tests.relay import Relay
from tests.serving import until
from tests.unit.orchestrator.cluster import (
    FakeReplica,
    llm_replica,
    make_task,
    reference_decoding,
    router_replica,
    running_cluster,
    slm_replica,
)

PATIENCE_S = 60.0
STALL_S = 0.5
# No model ends it before its 240 tokens are over.
LONG: dict[str, Any] = {"prompt_token_ids": (5, 13, 7), "max_new_tokens": 240}
MAKERS: dict[str, Callable[[], FakeReplica]] = {"slm": slm_replica, "router": router_replica, "llm": llm_replica}


@asynccontextmanager
async def _relays(*replicas: FakeReplica) -> AsyncIterator[list[Relay]]:
    """A way to each replica that can turn into a black hole. The replicas keep their addresses from now on."""
    async with AsyncExitStack() as stack:
        relays = []
        for replica in replicas:
            await replica.start()
            await replica.kill()
            relay = Relay(replica.target)
            await stack.enter_async_context(relay.listening("127.0.0.1", 0))
            relays.append(relay)
        yield relays


@pytest.mark.parametrize("kind", ["slm", "router", "llm"])
async def test_silent_replica_counts_as_lost_its_sequences_move_and_what_it_says_later_is_void(kind: str) -> None:
    replicas = [MAKERS[kind](), MAKERS[kind]()]
    async with _relays(*replicas) as relays:
        settings: dict[str, Any] = {f"{kind}s": replicas, kind: tuple(relay.address for relay in relays)}
        async with running_cluster(**settings, stall_limit_s=STALL_S) as cluster:
            await until(lambda: len(getattr(cluster.driver, kind).links.available) == 2, timeout_s=PATIENCE_S)
            tasks = [make_task(f"r{i}", prompt_token_ids=(5, i, 7), max_new_tokens=240) for i in range(6)]
            running = [asyncio.create_task(cluster.run(task)) for task in tasks]
            await until(lambda: cluster.driver.num_peer_messages > 30, timeout_s=PATIENCE_S)
            relays[0].freeze()
            await until(lambda: all(task.done() for task in running), timeout_s=PATIENCE_S)
            num_stalls = getattr(cluster.driver, kind).links.num_stalls
            relays[0].thaw()
            for task, result in zip(tasks, running, strict=True):
                assert result.result() == reference_decoding(task)
            assert num_stalls >= 1
            await until(lambda: len(getattr(cluster.driver, kind).links.available) == 2, timeout_s=PATIENCE_S)
            assert await cluster.run(tasks[0]) == reference_decoding(tasks[0])
            await until(lambda: cluster.is_empty, timeout_s=PATIENCE_S)


async def test_quiet_replica_that_owes_nothing_is_left_alone() -> None:
    async with running_cluster(stall_limit_s=STALL_S) as cluster:
        task = make_task()
        await cluster.run(task)
        # Idle streams stay, however long nothing is said on them.
        await asyncio.sleep(3 * STALL_S)
        assert await cluster.run(task) == reference_decoding(task)
        assert [cluster.driver.slm.links.num_stalls, cluster.driver.llm.links.num_stalls] == [0, 0]


async def test_only_llm_silent_lets_slm_only_go_on_after_the_grace_time_and_fail_end() -> None:
    llm = llm_replica()
    async with (
        _relays(llm) as (relay,),
        running_cluster(llms=[llm], llm=(relay.address,), stall_limit_s=STALL_S, llm_grace_s=0.5) as cluster,
    ):
        goes_on = make_task("on", **LONG, threshold=0.0, llm_loss_policy=LlmLossPolicy.SLM_ONLY)
        fails = make_task("fails", **LONG, threshold=0.0, llm_loss_policy=LlmLossPolicy.FAIL)
        async with cluster.driver.sequence(goes_on) as sequence:
            failing = asyncio.create_task(cluster.run(fails))
            await until(lambda: len(sequence.completion) > 3, timeout_s=PATIENCE_S)
            relay.freeze()
            with pytest.raises(PeerUnavailable, match="llm: no replica"):
                await asyncio.wait_for(failing, PATIENCE_S)
            await until(lambda: not sequence.running, timeout_s=PATIENCE_S)
            assert sequence.answer.count(Source.SLM_FALLBACK) > 0
        relay.thaw()


@pytest.mark.parametrize("kind", ["slm", "router"])
@pytest.mark.parametrize("threshold", [0.0, 0.5])
async def test_without_slm_or_router_requests_end_after_the_grace_time_and_the_service_is_back_by_itself(
    kind: str, threshold: float
) -> None:
    async with running_cluster(peer_grace_s=1.0) as cluster:
        (replica,) = getattr(cluster, f"{kind}s")
        running = asyncio.create_task(cluster.run(make_task("long", **LONG, threshold=threshold)))
        await until(lambda: cluster.driver.num_peer_messages > 20, timeout_s=PATIENCE_S)
        assert not running.done()
        await replica.kill()
        with pytest.raises(PeerUnavailable, match=f"{kind}: no replica for 1 s"):
            await asyncio.wait_for(running, PATIENCE_S)
        assert cluster.presence[-1] == f"{kind}: no replica for 1 s"
        with pytest.raises(PeerUnavailable, match=f"{kind}: no replica for 1 s"):
            await cluster.run(make_task())
        await replica.start()
        await until(lambda: cluster.presence[-1] is None, timeout_s=PATIENCE_S)
        task = make_task(threshold=threshold)
        assert await cluster.run(task) == reference_decoding(task)
        await until(lambda: cluster.is_empty, timeout_s=PATIENCE_S)
