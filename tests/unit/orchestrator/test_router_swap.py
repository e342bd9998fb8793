"""The router is changed while sequences run: each keeps the weights that it began with."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace

import pytest

from services.common.errors import PeerUnavailable
from services.orchestrator.requests.task import GenerationTask
from tests.rules import router_rule
from tests.serving import until
from tests.unit.orchestrator.cluster import (
    Cluster,
    RouterReplica,
    make_task,
    reference_decoding,
    running_cluster,
)


def weights_served(cluster: Cluster) -> str:
    assert cluster.gate.pair is not None
    return cluster.gate.pair.router_weights


def task_now(cluster: Cluster, request_id: str, number: int = 0, **fields: object) -> GenerationTask:
    """A request that arrives now."""
    rule = replace(router_rule(0.5), router_weights=weights_served(cluster))
    return make_task(request_id, prompt_token_ids=(5, 6, 7 + number), rule=rule, **fields)


async def test_every_sequence_keeps_the_router_that_it_began_with() -> None:
    draw = random.Random(4)
    router = RouterReplica("0")
    async with running_cluster(routers=[router]) as cluster:
        used: set[str] = set()

        async def run_one(number: int) -> None:
            await asyncio.sleep(draw.random())
            task = task_now(cluster, f"r{number}", number % 90, max_new_tokens=100)
            used.add(task.rule.router_weights)
            assert await cluster.run(task) == reference_decoding(task)

        async def swap_often() -> None:
            for weights in [11, 22, 33] * 7:
                await asyncio.sleep(0.05)
                await router.swap(str(weights))
                await until(lambda: weights_served(cluster) == router.weights, timeout_s=30)

        await asyncio.gather(swap_often(), *(run_one(number) for number in range(60)))
        assert len(used) > 2


async def test_new_sequences_get_what_most_replicas_serve() -> None:
    routers = [RouterReplica("0") for _ in range(3)]
    async with running_cluster(routers=routers) as cluster:
        await until(lambda: len(cluster.driver.router.links.available) == 3, timeout_s=90)
        old = task_now(cluster, "old", max_new_tokens=200)
        running = asyncio.create_task(cluster.run(old))
        await routers[0].swap("11")
        first = task_now(cluster, "first")
        assert first.rule.router_weights == "0"
        await routers[1].swap("11")
        await until(lambda: weights_served(cluster) == "11", timeout_s=30)
        # The third replica can't score it, and isn't asked to.
        new = task_now(cluster, "new")
        assert await cluster.run(new) == reference_decoding(new)
        assert await cluster.run(first) == reference_decoding(first)
        assert await running == reference_decoding(old)


async def test_weights_that_nobody_holds_any_more_end_their_sequences() -> None:
    router = RouterReplica("0", max_versions=2)
    async with running_cluster(routers=[router], peer_grace_s=0.5) as cluster:
        lost = task_now(cluster, "lost")
        for weights in ("11", "22"):
            await router.swap(weights)
        await until(lambda: weights_served(cluster) == "22", timeout_s=30)
        with pytest.raises(PeerUnavailable, match=r"^router: no replica holds weights 0 any more"):
            await cluster.run(lost)
        fine = task_now(cluster, "fine")
        assert await cluster.run(fine) == reference_decoding(fine)


async def test_sequence_waits_for_its_weights_through_the_loss_of_a_replica() -> None:
    routers = [RouterReplica("0"), RouterReplica("0")]
    async with running_cluster(routers=routers) as cluster:
        await until(lambda: len(cluster.driver.router.links.available) == 2, timeout_s=90)
        task = task_now(cluster, "r", max_new_tokens=200)
        running = asyncio.create_task(cluster.run(task))
        await routers[0].swap("11")
        await asyncio.sleep(0.05)
        # The other holds the old weights alone from now on; the first holds both.
        await routers[1].kill()
        await routers[1].start()
        assert await running == reference_decoding(task)
