"""A pod that is alive and silent for long costs streams a pause of seconds, and no token."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from kubernetes import client
from trivium.v1 import orchestrator_pb2

from evaluation.exactness import Reference
from evaluation.reference.pair import LoadedPair
from tests.cluster.harness.hanging import STARTED_TIMEOUT_S, Hanger, hanger
from tests.cluster.harness.replicas import Replicas, load_of
from tests.integration.harness.clients import Clients
from tests.integration.harness.completions import tell
from tests.serving import until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

NUM_STREAMS = 16
USUAL_S = 10.0
"""How long the streams are watched before, for the gaps that they have anyway."""
HUNG_S = 40.0
"""Far longer than a pause may be, and less than the kubelet takes to start the container again."""
MAX_PAUSE_S = 5.0

NOTICED: dict[str, Callable[[orchestrator_pb2.OrchestratorLoad], bool]] = {
    "redis": lambda load: not load.prefix_index_available,
    "slm": lambda load: load.num_slm_replicas == 1,
    "router": lambda load: load.num_router_replicas == 1,
    "llm": lambda load: load.num_llm_replicas == 2,
}
"""What an orchestrator tells of its peers while a pod hangs."""


@pytest.fixture(scope="module")
def hanging(kube: client.CoreV1Api, light: str) -> Iterator[Hanger]:
    with hanger(kube, light) as found:
        yield found


@pytest.mark.parametrize("component", NOTICED)
async def test_pod_hung_for_long_pauses_streams_for_seconds_and_fails_none(
    replicas: Replicas,
    hanging: Hanger,
    suite_references: list[Reference],
    reference_pair: LoadedPair,
    component: str,
    request: pytest.FixtureRequest,
) -> None:
    if request.config.getoption("--hang") not in (component, "all"):
        pytest.skip(f"--hang {component}, or all, hangs it")
    clients = Clients(suite_references, reference_pair.tokenizer)
    with ExitStack() as stack:
        addresses = replicas.orchestrators(stack)

        async def notice() -> bool:
            loads = await asyncio.gather(*map(load_of, addresses))
            return all(NOTICED[component](load) for load in loads)

        async def forget() -> bool:
            loads = await asyncio.gather(*map(load_of, addresses))
            return not any(NOTICED[component](load) for load in loads)

        async with asyncio.TaskGroup() as streaming:
            for number in range(NUM_STREAMS):
                streaming.create_task(clients.run(addresses[number % len(addresses)]))
            await until(lambda: clients.num_running == NUM_STREAMS, timeout_s=60)
            await asyncio.sleep(USUAL_S)
            usual_s, clients.longest_pause_s = clients.longest_pause_s, 0.0
            async with asyncio.TaskGroup() as silent:
                victim = replicas.ready(component)[0]
                silent.create_task(asyncio.to_thread(hanging.hang, victim, HUNG_S))
                silent.create_task(until(notice, timeout_s=STARTED_TIMEOUT_S + HUNG_S))
            await until(forget, timeout_s=60)
            clients.stopping = True
        longest_s = clients.longest_pause_s
        tell(f"{component} hung: longest pause, usual gap, s", (round(longest_s, 2), round(usual_s, 2)))
        tell("streams, tokens", (clients.num_streams, clients.num_tokens))
        await replicas.until_whole(addresses)
    assert clients.num_streams >= NUM_STREAMS
    # What a busy machine adds to every gap isn't the pod's.
    assert longest_s < MAX_PAUSE_S + usual_s
