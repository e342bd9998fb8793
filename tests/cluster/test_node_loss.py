"""A node is lost as in a power cut: streams of the other one's orchestrator go on, and the service gets whole again.

Runs where `--lose-node NODE=COMMAND` says how a node can be lost. The node stays lost.
"""

from __future__ import annotations

import asyncio
import shlex
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
import yaml
from kubernetes import client

from evaluation.exactness import Reference
from evaluation.reference.pair import LoadedPair
from tests.cluster.harness import pods
from tests.cluster.harness.access import Access
from tests.cluster.harness.commands import run
from tests.cluster.harness.release import PORTS, Release
from tests.cluster.harness.replicas import load_of
from tests.integration.gateway.callers import Callers
from tests.integration.harness.clients import Clients
from tests.integration.harness.completions import tell
from tests.serving import until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1200)]

SERVICES = ("slm", "router", "llm", "orchestrator", "gateway")
NUM_REPLICAS = 2
NUM_STREAMS, NUM_HTTP_STREAMS = 16, 8
WHOLE_TIMEOUT_S = 600.0
AWAY_S = 5
"""Seconds that pods stay bound to a node that doesn't answer; Kubernetes' own default is 300."""


@pytest.fixture
def lost(request: pytest.FixtureRequest) -> tuple[str, list[str]]:
    """The node to lose, and the command that does it."""
    given: str | None = request.config.getoption("--lose-node")
    if given is None:
        pytest.skip("--lose-node NODE=COMMAND isn't given: no node can be lost")
    node, _, command = given.partition("=")
    return node, shlex.split(command)


@pytest.fixture
def spread(lost: tuple[str, list[str]], release: Release, kube: client.CoreV1Api) -> Iterator[Release]:
    """A release with a pod of each service on two nodes, and its Redis on the one that stays."""
    names = [str(node.metadata.name) for node in kube.list_node().items if node.metadata]
    stays = next(name for name in names if name != lost[0])
    effects = ("unreachable", "not-ready")
    tolerations = [
        {
            "key": f"node.kubernetes.io/{effect}",
            "operator": "Exists",
            "effect": "NoExecute",
            "tolerationSeconds": AWAY_S,
        }
        for effect in effects
    ]
    values = {name: {"replicas": NUM_REPLICAS, "tolerations": tolerations} for name in SERVICES}
    placed = {"nodeSelector": {"kubernetes.io/hostname": stays}}
    release.install(text=yaml.safe_dump({**values, "redis": placed}))
    yield release
    # Pods of the lost node can't confirm their end.
    for name in SERVICES:
        for pod in pods.of_component(kube, release.namespace, name, ending=True):
            if pod.spec and pod.spec.node_name == lost[0]:
                pods.delete_at_once(kube, release.namespace, pods.name_of(pod))


async def test_node_lost_streams_of_the_other_go_on_and_the_service_gets_whole(
    spread: Release,
    lost: tuple[str, list[str]],
    kube: client.CoreV1Api,
    access: Access,
    suite_references: list[Reference],
    reference_pair: LoadedPair,
) -> None:
    node, command = lost

    def staying(component: str) -> list[client.V1Pod]:
        found = pods.of_component(kube, spread.namespace, component)
        return [pod for pod in found if pods.is_ready(pod) and pod.spec and pod.spec.node_name != node]

    survivors = {component: len(staying(component)) for component in SERVICES}
    assert set(survivors.values()) == {1}, f"not spread over two nodes: {survivors}"
    clients = Clients(suite_references, reference_pair.tokenizer)
    callers = Callers(suite_references, reference_pair)
    with ExitStack() as stack:
        address, http_address = (
            stack.enter_context(access.to_pod(spread.namespace, pods.name_of(pod), PORTS[component]))
            for component in ("orchestrator", "gateway")
            for pod in staying(component)
        )
        async with asyncio.TaskGroup() as streaming:
            for _ in range(NUM_STREAMS):
                streaming.create_task(clients.run(address))
            # Of the lost node's orchestrator, too.
            for _ in range(NUM_HTTP_STREAMS):
                streaming.create_task(callers.run(f"http://{http_address}"))
            await until(lambda: clients.num_running == NUM_STREAMS, timeout_s=60)
            await until(lambda: callers.num_running == NUM_HTTP_STREAMS, timeout_s=60)
            await asyncio.to_thread(run, *command)
            began = time.monotonic()
            async with asyncio.timeout(WHOLE_TIMEOUT_S):
                while True:
                    counts = [len(await asyncio.to_thread(staying, component)) for component in SERVICES]
                    load = await load_of(address)
                    used = (load.num_slm_replicas, load.num_router_replicas, load.num_llm_replicas)
                    if min(counts) >= NUM_REPLICAS and used == (NUM_REPLICAS,) * 3:
                        break
                    await asyncio.sleep(1)
            tell("whole again after, s", round(time.monotonic() - began, 1))
            clients.stopping = callers.stopping = True
    tell("answers over HTTP, tokens", (callers.num_answers, callers.num_tokens))
    tell("longest pause of a stream over HTTP, s", round(callers.longest_pause_s, 2))
    tell("streams, tokens", (clients.num_streams, clients.num_tokens))
    tell("longest pause of a stream, s", round(clients.longest_pause_s, 2))
    assert clients.num_streams >= NUM_STREAMS
    assert callers.num_answers >= NUM_HTTP_STREAMS
