"""Sequences go on while the replicas behind a name come and go."""

from __future__ import annotations

import asyncio
from typing import Any

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
from tests.unit.orchestrator.test_discovery import FakeResolver

PATIENCE_S = 60.0
# Neither model ends it before its 240 tokens are over.
LONG: dict[str, Any] = {"prompt_token_ids": (5, 13, 7), "max_new_tokens": 240, "threshold": 0.0}


async def _start_beside(cluster: Cluster, replica: FakeReplica, first: FakeReplica, host: str) -> None:
    """Starts a replica on the port of another one, at an address of its own."""
    replica.target = f"{host}:{first.port}"
    await replica.start()


async def test_new_address_of_a_name_is_used_and_a_gone_one_hands_its_sequences_over() -> None:
    first, second = llm_replica(), llm_replica()
    first.target = "127.0.0.2:0"
    await first.start()
    resolver = FakeResolver(llm=["127.0.0.2"])
    name = f"llm:{first.port}"
    await first.kill()
    async with running_cluster(llms=[first], resolve=resolver, llm=name) as cluster:
        task = make_task("over", **LONG)
        running = asyncio.create_task(cluster.run(task))
        await until(lambda: cluster.driver.num_peer_messages > 20, timeout_s=PATIENCE_S)
        await _start_beside(cluster, second, first, "127.0.0.3")
        try:
            resolver.hosts["llm"] = ["127.0.0.2", "127.0.0.3"]
            await until(lambda: cluster.driver.num_llm_replicas == 2, timeout_s=PATIENCE_S)
            resolver.hosts["llm"] = ["127.0.0.3"]
            await first.kill()
            async with asyncio.timeout(PATIENCE_S):
                assert await running == reference_decoding(task)
                assert await cluster.run(make_task("next", **LONG)) == reference_decoding(task)
            assert cluster.driver.num_llm_replicas == 1
            assert (cluster.driver.num_llm_failovers, cluster.driver.num_slm_failovers) == (1, 0)
            assert second.engine.load.num_rows >= LONG["max_new_tokens"]
        finally:
            await second.kill()
        await first.start()


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
        assert cluster.driver.num_slm_replicas == 1
