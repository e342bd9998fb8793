"""Serves a service inside the test's own event loop, on a free port, with the production server around it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from pydantic_settings import SettingsConfigDict

from services.common.serving.channels import open_channel
from services.common.serving.interceptors import CallGuard
from services.common.serving.lifecycle import Lifecycle
from services.common.serving.server import Service, create_server
from services.common.serving.settings import ProcessSettings


class ServingSettings(ProcessSettings):
    model_config = SettingsConfigDict(env_prefix="TRIVIUM_TEST_")


@asynccontextmanager
async def serving(service: Service, lifecycle: Lifecycle, **settings: Any) -> AsyncIterator[grpc.aio.Channel]:
    server = create_server(service, lifecycle, CallGuard(lifecycle), ServingSettings(**settings))
    port = server.add_insecure_port("127.0.0.1:0")
    await lifecycle.publish()
    await server.start()
    await service.start()
    await lifecycle.mark_ready()
    working = asyncio.create_task(service.run())
    try:
        async with open_channel(f"127.0.0.1:{port}") as channel:
            yield channel
    finally:
        await server.stop(0)
        working.cancel()
        await asyncio.wait({working})
        await service.stop()


async def until(
    condition: Callable[[], Any], timeout_s: float = 1.0, check: Callable[[], None] | None = None
) -> None:
    """Waits until `condition()` holds, awaiting what it returns if need be. Calls `check` while it waits."""
    async with asyncio.timeout(timeout_s):
        while True:
            result = condition()
            if await result if asyncio.iscoroutine(result) else result:
                return
            if check:
                check()
            await asyncio.sleep(0.005)


async def read(call: Any) -> Any:
    """Reads the next response of a stream, which must not have ended."""
    response = await call.read()
    assert response is not grpc.aio.EOF, "the stream has ended"
    return response


async def error_of(call: Any, request: Any = None) -> grpc.aio.AioRpcError:
    """Sends a request that ends the stream, and returns the status it ends with."""
    with pytest.raises(grpc.aio.AioRpcError) as error:  # noqa: PT012
        if request is not None:
            await call.write(request)
        while await call.read() is not grpc.aio.EOF:
            pass
    return error.value
