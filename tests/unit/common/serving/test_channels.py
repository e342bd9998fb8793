from __future__ import annotations

import asyncio

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from services.common.serving.channels import open_channel, server_options
from tests.relay import Relay


@pytest.mark.parametrize("side", ["client", "server"])
async def test_peer_behind_a_black_hole_is_noticed_after_a_ping_and_its_timeout(side: str) -> None:
    patient, impatient = 60.0, 1.0
    server = grpc.aio.server(options=server_options(keepalive_s=impatient if side == "server" else patient))
    servicer = _Watched()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    relay = Relay(f"127.0.0.1:{port}")
    async with relay.listening("127.0.0.1", 0):
        keepalive_s = impatient if side == "client" else patient
        async with open_channel(relay.address, keepalive_s=keepalive_s) as channel:
            call = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
            await call.read()
            relay.freeze()
            async with asyncio.timeout(20):
                if side == "client":
                    with pytest.raises(grpc.aio.AioRpcError, match="UNAVAILABLE"):
                        await call.read()
                else:
                    await servicer.ended.wait()
            relay.thaw()
    await server.stop(0)


class _Watched(health.aio.HealthServicer):  # type: ignore[misc]
    """Tells when a watcher's call has ended."""

    def __init__(self) -> None:
        super().__init__()
        self.ended = asyncio.Event()

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: object) -> None:
        try:
            await super().Watch(request, context)
        finally:
            self.ended.set()
