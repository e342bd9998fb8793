"""Where a process is between its start and its end.

Owns the one answer to "is a new call taken now?" that the health service and the interceptor give to peers, and the
rule that draining is final. Doesn't own the server, which moves a process through its life.
"""

from __future__ import annotations

import asyncio
import importlib.metadata

from grpc_health.v1 import health, health_pb2
from trivium.v1 import common_pb2

from services.common.errors import Draining, ModelNotReady, TriviumError

LIVENESS = "liveness"
"""Health of this name tells that the process answers, whether or not it takes calls."""


class Lifecycle:
    """The state of one process: not ready, ready, or draining, which is final.

    Args:
        service_name: Full gRPC name, e.g. "trivium.v1.SlmService".
        replica_id: Name of this process among its replicas.
    """

    def __init__(self, service_name: str, replica_id: str) -> None:
        self.service_name = service_name
        self.replica_id = replica_id
        self.health = health.aio.HealthServicer()
        self.num_calls_refused = 0
        """Calls refused because too many were open."""
        self._reason: TriviumError | None = ModelNotReady(f"{service_name} is starting")
        self._draining = False
        self._publishing = asyncio.Lock()

    @property
    def draining(self) -> bool:
        """Whether the process is about to stop."""
        return self._draining

    @property
    def refusal(self) -> TriviumError | None:
        """What to refuse a new call with, an error of that call's own; None while calls are taken."""
        return self._reason and self._reason.afresh()

    def explain(self, reason: TriviumError) -> None:
        """Says why no call is taken. Without effect while calls are taken, and while draining."""
        if self._reason and not self._draining:
            self._reason = reason.afresh()

    async def mark_ready(self) -> None:
        """Takes calls from now on. Without effect while draining."""
        if not self._draining:
            self._reason = None
            await self.publish()

    async def mark_not_ready(self, reason: TriviumError) -> None:
        """Refuses new calls with `reason` until `mark_ready`. Running calls go on. Without effect while draining."""
        if not self._draining:
            self._reason = reason.afresh()
            await self.publish()

    async def mark_draining(self) -> None:
        """Refuses new calls for good. Running calls go on."""
        self._draining = True
        self._reason = Draining(f"{self.service_name} is about to stop")
        await self.publish()

    async def publish(self) -> None:
        """Tells the health service's watchers whether calls are taken."""
        response = health_pb2.HealthCheckResponse
        # One after the other: the last to tell has to be the last that changed something.
        async with self._publishing:
            status = response.NOT_SERVING if self._reason else response.SERVING
            # "" stands for the process as a whole, which is what Kubernetes asks for by default.
            for name in ("", self.service_name):
                await self.health.set(name, status)
            await self.health.set(LIVENESS, response.SERVING)

    def replica_info(self) -> common_pb2.ReplicaInfo:
        """Describes this process to a peer."""
        return common_pb2.ReplicaInfo(
            replica_id=self.replica_id, version=importlib.metadata.version("trivium"), draining=self._draining
        )
