"""Updates and drains of nodes replace every pod under traffic, and no stream fails."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from kubernetes.client.exceptions import ApiException

from evaluation.exactness import Reference
from evaluation.reference.pair import LoadedPair
from tests.cluster.harness import pods
from tests.cluster.harness.release import NAME, PORTS
from tests.cluster.harness.replicas import NUM_REPLICAS, Replicas
from tests.integration.harness.clients import Clients
from tests.integration.harness.completions import tell
from tests.serving import until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1200)]

NUM_CLIENTS = 8
TOO_MANY_REQUESTS = 429
EVICTED_TIMEOUT_S = 600.0


@asynccontextmanager
async def traffic(replicas: Replicas, clients: Clients) -> AsyncIterator[None]:
    """Clients stream through the Service, one answer after the other, for as long as the context is open."""
    with replicas.access.to_service(replicas.namespace, f"{NAME}-orchestrator", PORTS["orchestrator"]) as address:
        async with asyncio.TaskGroup() as streaming:
            for _ in range(NUM_CLIENTS):
                streaming.create_task(clients.run(address))
            await until(lambda: clients.num_running == NUM_CLIENTS, timeout_s=60)
            yield
            clients.stopping = True
    tell("streams, tokens", (clients.num_streams, clients.num_tokens))
    tell("longest pause of a stream, s", round(clients.longest_pause_s, 2))


def pod_names(replicas: Replicas) -> set[str]:
    """Names of all pods that aren't about to end."""
    found = (pods.of_component(replicas.api, replicas.namespace, component) for component in NUM_REPLICAS)
    return {pods.name_of(pod) for listed in found for pod in listed}


async def test_upgrade_of_every_component_fails_no_stream(
    replicas: Replicas, suite_references: list[Reference], reference_pair: LoadedPair
) -> None:
    before = pod_names(replicas)
    clients = Clients(suite_references, reference_pair.tokenizer)
    settings = [f"{component}.settings.logLevel=WARNING" for component in NUM_REPLICAS]
    async with traffic(replicas, clients):
        await asyncio.to_thread(replicas.install, *settings)
        assert not pod_names(replicas) & before, "pods that the upgrade didn't replace"
        num_during = clients.num_streams
    assert num_during >= NUM_CLIENTS


async def test_evictions_leave_what_the_budgets_ask_for_and_fail_no_stream(
    replicas: Replicas, suite_references: list[Reference], reference_pair: LoadedPair
) -> None:
    clients = Clients(suite_references, reference_pair.tokenizer)
    refusals: Counter[str] = Counter()
    async with traffic(replicas, clients), asyncio.timeout(EVICTED_TIMEOUT_S), asyncio.TaskGroup() as evicting:
        for component in NUM_REPLICAS:
            evicting.create_task(evict_all(replicas, component, refusals))
    tell("evictions refused", dict(refusals))
    assert set(refusals) == set(NUM_REPLICAS)


async def evict_all(replicas: Replicas, component: str, refusals: Counter[str]) -> None:
    """Evicts every pod that a component has now as `kubectl drain` does, asking again where a budget refuses."""
    for pod in await asyncio.to_thread(replicas.ready, component):
        while not await asyncio.to_thread(_evicted, replicas, pods.name_of(pod)):
            refusals[component] += 1
            await asyncio.sleep(1)
        assert len(await asyncio.to_thread(replicas.ready, component)) >= NUM_REPLICAS[component] - 1


def _evicted(replicas: Replicas, name: str) -> bool:
    try:
        pods.evict(replicas.api, replicas.namespace, name)
    except ApiException as error:
        if error.status != TOO_MANY_REQUESTS:
            raise
        return False
    return True
