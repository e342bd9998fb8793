"""A release with several replicas of everything: what generation on a cluster, faults and updates are tested with.

Every test leaves it whole: as many ready pods as were asked for, all of them in use.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import ExitStack
from dataclasses import dataclass

from kubernetes import client
from trivium.v1 import orchestrator_pb2, orchestrator_pb2_grpc

from services.common.serving.channels import open_channel
from tests.cluster.harness import pods
from tests.cluster.harness.access import Access
from tests.cluster.harness.release import PORTS, Release

NUM_REPLICAS = {"slm": 2, "router": 2, "llm": 3, "orchestrator": 2}
WHOLE_TIMEOUT_S = 180.0
LOAD_TIMEOUT_S = 60.0
"""A machine on which many pods start at once may take seconds to open a connection."""
_POLL_S = 0.5


@dataclass(frozen=True)
class Replicas:
    """The installed release."""

    release: Release
    api: client.CoreV1Api
    access: Access

    @property
    def namespace(self) -> str:
        """Where it is installed."""
        return self.release.namespace

    def install(self, *settings: str) -> None:
        """Installs it, or upgrades it with other settings."""
        replicas = (f"{name}.replicas={number}" for name, number in NUM_REPLICAS.items())
        # All of a service may be killed at once, and be away for as long as this machine takes to start them.
        self.release.install(*replicas, f"orchestrator.settings.peerGraceS={WHOLE_TIMEOUT_S:g}", *settings)

    def ready(self, component: str) -> list[client.V1Pod]:
        """The ready pods of a component."""
        return [pod for pod in pods.of_component(self.api, self.namespace, component) if pods.is_ready(pod)]

    def orchestrators(self, stack: ExitStack) -> list[str]:
        """Addresses of the orchestrators' pods, valid while the stack is open."""
        ways = [
            self.access.to_pod(self.namespace, pods.name_of(pod), PORTS["orchestrator"])
            for pod in self.ready("orchestrator")
        ]
        return [stack.enter_context(way) for way in ways]

    async def until_whole(self, addresses: list[str]) -> float:
        """Waits until every pod is ready and every orchestrator uses all of them; returns the seconds it took."""
        began = time.monotonic()
        async with asyncio.timeout(WHOLE_TIMEOUT_S):
            while True:
                if await asyncio.to_thread(self._all_ready) and await _all_used(addresses):
                    return time.monotonic() - began
                await asyncio.sleep(_POLL_S)

    def _all_ready(self) -> bool:
        return all(len(self.ready(component)) == number for component, number in NUM_REPLICAS.items())


async def load_of(address: str) -> orchestrator_pb2.OrchestratorLoad:
    """An orchestrator's load, once it can be reached."""
    async with open_channel(address) as channel:
        stub = orchestrator_pb2_grpc.OrchestratorServiceStub(channel)
        request = orchestrator_pb2.OrchestratorServiceGetServerInfoRequest()
        return (await stub.GetServerInfo(request, wait_for_ready=True, timeout=LOAD_TIMEOUT_S)).load


async def _all_used(addresses: list[str]) -> bool:
    loads = await asyncio.gather(*map(load_of, addresses))
    wanted = (NUM_REPLICAS["slm"], NUM_REPLICAS["router"], NUM_REPLICAS["llm"])
    return all((load.num_slm_replicas, load.num_router_replicas, load.num_llm_replicas) == wanted for load in loads)
