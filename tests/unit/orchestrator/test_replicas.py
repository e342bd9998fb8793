"""Sequences go on while the replicas behind a name come and go."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from typing import Any

import pytest

from services.common.errors import ContextLengthExceeded
from services.orchestrator.requests.task import GenerationTask
from tests.relay import Relay
from tests.serving import until
from tests.unit.orchestrator.cluster import (
    Cluster,
    FakeReplica,
    llm_replica,
    make_task,
    reference_decoding,
    running_cluster,
    slm_replica,
)
from tests.unit.orchestrator.replicas.test_discovery import FakeResolver

PATIENCE_S = 60.0
# Neither model ends it before its 240 tokens are over.
LONG: dict[str, Any] = {"prompt_token_ids": (5, 13, 7), "max_new_tokens": 240, "threshold": 0.0}


async def _start_beside(cluster: Cluster, replica: FakeReplica, first: FakeReplica, host: str) -> None:
    """Starts a replica on the port of another one, at an address of its own."""
    replica.target = f"{host}:{first.port}"
    await replica.start()


@asynccontextmanager
async def _joined_by(
    second: FakeReplica, first: FakeReplica, task: GenerationTask
) -> AsyncIterator[tuple[Cluster, FakeResolver, asyncio.Task[list[tuple[int, bool]]]]]:
    """Runs a request on the first LLM behind a name, which a second one joins meanwhile. The test kills the first."""
    first.target = "127.0.0.2:0"
    await first.start()
    resolver = FakeResolver(llm=["127.0.0.2"])
    name = f"llm:{first.port}"
    await first.kill()
    async with running_cluster(llms=[first], resolve=resolver, llm=name) as cluster:
        running = asyncio.create_task(cluster.run(task))
        await until(lambda: cluster.driver.num_peer_messages > 20, timeout_s=PATIENCE_S)
        await _start_beside(cluster, second, first, "127.0.0.3")
        try:
            resolver.hosts["llm"] = ["127.0.0.2", "127.0.0.3"]
            await until(lambda: len(cluster.driver.llm.links.available) == 2, timeout_s=PATIENCE_S)
            yield cluster, resolver, running
        finally:
            await second.kill()
        await first.start()


async def test_new_address_of_a_name_is_used_and_a_gone_one_hands_its_sequences_over() -> None:
    first, second = llm_replica(), llm_replica()
    task = make_task("over", **LONG)
    async with _joined_by(second, first, task) as (cluster, resolver, running):
        resolver.hosts["llm"] = ["127.0.0.3"]
        await first.kill()
        async with asyncio.timeout(PATIENCE_S):
            assert await running == reference_decoding(task)
            assert await cluster.run(make_task("next", **LONG)) == reference_decoding(task)
        assert len(cluster.driver.llm.links.available) == 1
        assert (cluster.driver.llm.num_failovers, cluster.driver.slm.num_failovers) == (1, 0)
        assert second.engine.load.num_rows >= LONG["max_new_tokens"]


async def test_context_is_known_in_the_moment_in_which_the_pair_is_complete() -> None:
    async with running_cluster(llms=[llm_replica(kv_cache_tokens=40)]) as cluster:
        assert cluster.first_context_len == 40


async def test_context_of_the_pair_is_the_shortest_of_the_replicas_that_are_listed() -> None:
    large, small = llm_replica(), llm_replica(kv_cache_tokens=40)
    async with _joined_by(small, large, make_task(**LONG)) as (cluster, resolver, running):
        assert cluster.driver.context_len == 40
        running.cancel()
        await asyncio.wait({running})
        resolver.hosts["llm"] = ["127.0.0.2"]
        await until(lambda: cluster.driver.context_len == 256, timeout_s=PATIENCE_S)
        resolver.hosts["llm"] = ["127.0.0.3"]
        await until(lambda: cluster.driver.context_len == 40, timeout_s=PATIENCE_S)
        await large.kill()


async def test_sequence_too_long_for_the_others_waits_while_its_replica_is_away_and_fails_once_it_is_gone() -> None:
    large, small = llm_replica(), llm_replica(kv_cache_tokens=40)
    task = make_task(**LONG)
    async with _joined_by(small, large, task) as (cluster, resolver, running):
        await large.kill()
        await asyncio.sleep(0.5)
        assert not running.done()
        await large.start()
        async with asyncio.timeout(PATIENCE_S):
            assert await running == reference_decoding(task)
        assert small.engine.load.num_rows == 0

        running = asyncio.create_task(cluster.run(make_task("second", **LONG)))
        await until(lambda: large.num_sequences == 1, timeout_s=PATIENCE_S)
        resolver.hosts["llm"] = ["127.0.0.3"]
        await large.kill()
        with pytest.raises(ContextLengthExceeded, match="replicas take 40"):
            async with asyncio.timeout(PATIENCE_S):
                await running


class _HalfOpen(Relay):
    """Leads connections to a replica. Their ends towards the orchestrator can die without the replica's noticing."""

    def __init__(self, replica: FakeReplica) -> None:
        super().__init__("")
        self._replica = replica
        self._near: list[asyncio.StreamWriter] = []
        self._far: list[asyncio.StreamWriter] = []

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_replica, to_replica = await asyncio.open_connection(self._replica.host, self._replica.port)
        self._near.append(writer)
        self._far.append(to_replica)
        with closing(writer), closing(to_replica):
            await asyncio.gather(_copy(reader, to_replica), _copy(from_replica, writer))

    def break_near(self) -> list[asyncio.StreamWriter]:
        """Resets the orchestrator's ends; returns the replica's, which stay."""
        far, self._far = self._far, []
        for writer in self._near:
            writer.transport.abort()
        self._near.clear()
        return far


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)


@pytest.mark.parametrize("kind", ["slm", "llm"])
async def test_connection_of_which_only_the_orchestrator_sees_the_end_pauses_the_stream(kind: str) -> None:
    replica = slm_replica() if kind == "slm" else llm_replica()
    half_open = _HalfOpen(replica)
    async with half_open.listening("127.0.0.1", 0):
        settings: dict[str, Any] = {f"{kind}s": [replica], kind: (half_open.address,)}
        async with running_cluster(**settings) as cluster:
            task = make_task(**LONG)
            running = asyncio.create_task(cluster.run(task))
            await until(lambda: cluster.driver.num_peer_messages > 20, timeout_s=PATIENCE_S)
            far = half_open.break_near()
            # Meanwhile the replica says that the sequence is another stream's.
            await asyncio.sleep(1)
            assert not running.done()
            for writer in far:
                writer.close()
            async with asyncio.timeout(PATIENCE_S):
                assert await running == reference_decoding(task)
            await until(lambda: cluster.is_empty, timeout_s=PATIENCE_S)


async def test_resolver_that_fails_while_sequences_run_costs_nothing() -> None:
    slm = slm_replica()
    slm.target = "127.0.0.2:0"
    await slm.start()
    await slm.kill()
    resolver = FakeResolver(slm=["127.0.0.2"])
    async with running_cluster(slms=[slm], resolve=resolver, slm=f"slm:{slm.port}") as cluster:
        del resolver.hosts["slm"]
        num_calls = resolver.num_calls
        await until(lambda: resolver.num_calls > num_calls + 2, timeout_s=PATIENCE_S)
        task = make_task(**LONG)
        async with asyncio.timeout(PATIENCE_S):
            assert await cluster.run(task) == reference_decoding(task)
        assert len(cluster.driver.slm.links.available) == 1
