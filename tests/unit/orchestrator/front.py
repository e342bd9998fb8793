"""The orchestrator's gRPC face before a pair in this process, with the production server around it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from transformers import PreTrainedTokenizerFast
from trivium.v1 import orchestrator_pb2_grpc

from services.common.access.keys import Keys
from services.common.rule_spec import RuleSpec
from services.common.serving.channels import open_channel
from services.common.serving.interceptors import CallGuard
from services.common.serving.lifecycle import Lifecycle
from services.common.serving.server import create_server
from services.orchestrator.door import KeyDoor
from services.orchestrator.index.prefix_index import PrefixIndex
from services.orchestrator.pair.rules import ServedRules
from services.orchestrator.servicer import OrchestratorServicer
from services.orchestrator.settings import OrchestratorSettings
from services.rules.registry import Rules
from tests.unit.orchestrator.cluster import Cluster, make_tokenizer, running_cluster

SERVICE = "trivium.v1.OrchestratorService"


@dataclass(frozen=True)
class Front:
    """A served orchestrator."""

    cluster: Cluster
    lifecycle: Lifecycle
    guard: CallGuard
    target: str
    channel: grpc.aio.Channel
    keys: Keys | None

    @property
    def stub(self) -> orchestrator_pb2_grpc.OrchestratorServiceAsyncStub:
        return orchestrator_pb2_grpc.OrchestratorServiceStub(self.channel)

    def call(self, method: str, message: bytes) -> Any:
        """Calls a method with a message as it stands on the wire."""
        stub: Any = self.channel.unary_stream(f"/{SERVICE}/{method}")
        return stub(message)

    def silent_call(self, method: str) -> Any:
        """Opens a call whose client doesn't send its message."""
        stub: Any = self.channel.stream_stream(f"/{SERVICE}/{method}")
        return stub()


@asynccontextmanager
async def running_front(
    *, tokenizer: PreTrainedTokenizerFast | None = None, replicas: dict[str, Any] | None = None, **settings: Any
) -> AsyncIterator[Front]:
    """Serves an orchestrator before a pair that is complete."""
    async with running_cluster(**(replicas or {}), **settings) as cluster:
        lifecycle = Lifecycle(SERVICE, "front")
        served = OrchestratorSettings(
            **{"slm": ("unused:1",), "router": ("unused:1",), "llm": ("unused:1",), "tokenizer": "fake"} | settings
        )
        servicer = OrchestratorServicer(
            served,
            lifecycle,
            driver=cluster.driver,
            gate=cluster.gate,
            rules=ServedRules(Rules(), RuleSpec.parse(served.rule)),
            index=PrefixIndex(None),
            tokenizer=tokenizer or make_tokenizer(),
        )
        keys = Keys(served.keys_file) if served.keys_file else None
        guard = CallGuard(lifecycle, served.call_limits, KeyDoor(keys) if keys else None)
        server = create_server(_Registered(servicer), lifecycle, guard, served)  # type: ignore[arg-type]
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        await lifecycle.mark_ready()
        try:
            target = f"127.0.0.1:{port}"
            async with open_channel(target) as channel:
                yield Front(cluster, lifecycle, guard, target, channel, keys)
        finally:
            await server.stop(0)


class _Registered:
    """As much of a service as a server needs."""

    def __init__(self, servicer: OrchestratorServicer) -> None:
        self._servicer = servicer

    def register(self, server: grpc.aio.Server) -> None:
        orchestrator_pb2_grpc.add_OrchestratorServiceServicer_to_server(self._servicer, server)
