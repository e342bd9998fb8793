"""Generation on the cluster is the reference decoding, whatever pods are killed meanwhile."""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import ExitStack

import pytest

from evaluation.exactness import Reference, compare
from evaluation.reference.pair import LoadedPair
from tests.cluster.harness.killer import Killer
from tests.cluster.harness.replicas import Replicas
from tests.integration.harness.clients import Clients
from tests.integration.harness.completions import tell
from tests.serving import until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(3600)]

NUM_STREAMS = 16
DEPTH = 12
SEED = 7
VICTIMS = ("slm", "router", "llm")
WAYS = ("delete", "SIGKILL")


async def test_cluster_writes_the_reference_decoding(replicas: Replicas, suite_references: list[Reference]) -> None:
    with ExitStack() as stack:
        addresses = replicas.orchestrators(stack)
        shares = [suite_references[number :: len(addresses)] for number in range(len(addresses))]
        concurrency = NUM_STREAMS // len(addresses)
        outcomes = await asyncio.gather(
            *(
                compare(address, share, depths=[DEPTH], concurrencies=[concurrency])
                for address, share in zip(addresses, shares, strict=True)
            )
        )
    flat = [outcome for share in outcomes for outcome in share]
    tell("completions, tokens", (sum(o.num_compared for o in flat), sum(o.num_tokens for o in flat)))
    tell("near ties", sum(o.num_excused for o in flat))
    assert len(addresses) == 2
    assert sum(o.num_compared for o in flat) == len(suite_references) > 50
    assert not [o for o in flat if o.num_different]


async def test_pods_killed_at_random_cost_no_token(
    replicas: Replicas,
    suite_references: list[Reference],
    reference_pair: LoadedPair,
    kubectl: str,
    num_kills: int,
) -> None:
    draw = random.Random(SEED)
    killer = Killer(replicas, kubectl, draw)
    clients = Clients(suite_references, reference_pair.tokenizer)
    num_hit = 0
    with ExitStack() as stack:
        addresses = replicas.orchestrators(stack)
        async with asyncio.TaskGroup() as streaming:
            for number in range(NUM_STREAMS):
                streaming.create_task(clients.run(addresses[number % len(addresses)]))
            await until(lambda: clients.num_running == NUM_STREAMS, timeout_s=60)
            began = time.monotonic()
            async with asyncio.TaskGroup() as replacing:
                for _ in range(num_kills):
                    await killer.slots.acquire()
                    await asyncio.sleep(draw.uniform(0, 0.5))
                    num_hit += clients.num_running
                    replacing.create_task(killer.replace(draw.choice(VICTIMS), draw.choice(WAYS)))
            tell("kills in seconds", round(time.monotonic() - began, 1))
            clients.stopping = True
        tell("kills", dict(killer.kills))
        tell("streams running at a kill, on average", num_hit / num_kills)
        tell("streams, tokens", (clients.num_streams, clients.num_tokens))
        tell("longest pause of a stream, s", round(clients.longest_pause_s, 2))
        tell("whole again after, s", round(await replicas.until_whole(addresses), 1))
    assert sum(killer.kills.values()) == num_kills
    assert clients.num_streams >= NUM_STREAMS
