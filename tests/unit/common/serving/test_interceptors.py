from __future__ import annotations

import asyncio
import copy
import gc
import logging
import tracemalloc
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from services.common.errors import InvalidRequest
from services.common.serving.call_limits import CallLimits
from services.common.serving.channels import open_channel
from services.common.serving.interceptors import CallGuard
from services.common.serving.lifecycle import Lifecycle
from services.common.serving.server import create_server
from tests.serving import ServingSettings, until

NAME = "trivium.v1.RouterService"
UNDECODABLE = b"\xff" * 40


class Message:
    """A message that can't be decoded if it begins with 0xff, and of which one can tell whether it is kept."""

    def __init__(self, data: bytes) -> None:
        self.data = data


class _Service:
    """Answers messages with their own bytes; `Hold` answers once and then waits until it may end."""

    def __init__(self) -> None:
        self.may_end = asyncio.Event()
        self.num_decoded = 0
        self.num_running = 0
        self.held: list[weakref.ref[Message]] = []

    def register(self, server: grpc.aio.Server) -> None:
        kinds: dict[str, Any] = {
            "Echo": grpc.unary_unary_rpc_method_handler(self.echo, self.decode),
            "Cancel": grpc.unary_unary_rpc_method_handler(self.echo, self.decode),
            "Hold": grpc.unary_stream_rpc_method_handler(self.hold, self.decode),
            "Chat": grpc.stream_stream_rpc_method_handler(self.chat, self.decode),
            "Collect": grpc.stream_unary_rpc_method_handler(self.collect, self.decode),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(NAME, kinds),))

    def decode(self, data: bytes) -> Message:
        self.num_decoded += 1
        if data.startswith(b"\xff"):
            # What the generated code does with it.
            health_pb2.HealthCheckRequest.FromString(data)
        return Message(data)

    async def echo(self, request: Message, context: Any) -> bytes:
        return request.data

    async def hold(self, request: Message, context: Any) -> AsyncIterator[bytes]:
        self.held.append(weakref.ref(request))
        del request
        self.num_running += 1
        try:
            yield b"begun"
            await self.may_end.wait()
        finally:
            self.num_running -= 1

    async def chat(self, requests: AsyncIterator[Message], context: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield request.data

    async def collect(self, requests: AsyncIterator[Message], context: Any) -> bytes:
        return b"".join([request.data async for request in requests])


@asynccontextmanager
async def _serving(**limits: Any) -> AsyncIterator[tuple[_Service, Lifecycle, grpc.aio.Channel]]:
    lifecycle, service = Lifecycle(NAME, "r1"), _Service()
    guard = CallGuard(lifecycle, CallLimits(**limits))
    server = create_server(service, lifecycle, guard, ServingSettings(max_message_mb=1))  # type: ignore[arg-type]
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    await lifecycle.mark_ready()
    try:
        async with open_channel(f"127.0.0.1:{port}") as channel:
            yield service, lifecycle, channel
    finally:
        await server.stop(0)


def call(channel: grpc.aio.Channel, method: str, *messages: bytes, service: str = NAME, **options: Any) -> Any:
    """Calls a method with undecoded messages, whatever its kind."""

    async def requests() -> AsyncIterator[bytes]:
        for message in messages:
            yield message

    stub: Any = channel.stream_stream(f"/{service}/{method}")
    return stub(requests(), **options)


async def answers_and_status(stream: Any) -> tuple[list[bytes], grpc.StatusCode, str]:
    answers = []
    try:
        async for answer in stream:
            answers.append(answer)
    except grpc.aio.AioRpcError as error:
        return answers, error.code(), error.details() or ""
    return answers, await stream.code(), ""


@pytest.mark.parametrize("method", ["Echo", "Hold", "Chat", "Collect"])
async def test_undecodable_request_of_any_kind_of_call_is_invalid_and_logs_nothing(
    method: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with _serving() as (_, _, channel):
        answers, code, details = await answers_and_status(call(channel, method, UNDECODABLE))
    assert (answers, code) == ([], grpc.StatusCode.INVALID_ARGUMENT)
    assert "40 bytes can't be decoded" in details
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING or record.exc_info]


async def test_undecodable_later_message_ends_its_stream_after_what_came_before(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with _serving() as (_, _, channel):
        answers, code, _ = await answers_and_status(call(channel, "Chat", b"a", b"b", UNDECODABLE, b"c"))
    assert (answers, code) == ([b"a", b"b"], grpc.StatusCode.INVALID_ARGUMENT)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING or record.exc_info]


@pytest.mark.parametrize(
    ("service", "method"),
    [
        ("grpc.health.v1.Health", "Check"),
        ("grpc.health.v1.Health", "Watch"),
        ("grpc.reflection.v1alpha.ServerReflection", "ServerReflectionInfo"),
    ],
)
async def test_undecodable_request_of_health_and_reflection_is_invalid_and_logs_nothing(
    service: str, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with _serving() as (_, _, channel):
        _, code, _ = await answers_and_status(call(channel, method, UNDECODABLE, service=service))
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING or record.exc_info]


async def test_call_without_a_message_is_invalid() -> None:
    async with _serving() as (_, _, channel):
        assert (await answers_and_status(call(channel, "Hold")))[1] == grpc.StatusCode.INVALID_ARGUMENT


async def test_message_over_the_limit_is_refused_and_logs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async with _serving() as (service, _, channel):
        _, code, _ = await answers_and_status(call(channel, "Hold", bytes(2**21)))
        assert service.num_decoded == 0
        assert (await answers_and_status(call(channel, "Echo", b"x")))[0] == [b"x"]
    assert code == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING or record.exc_info]


async def test_calls_beyond_max_calls_are_refused_unread_with_retry_info() -> None:
    async with _serving(max_calls=3) as (service, lifecycle, channel):
        running = [call(channel, "Hold", b"x") for _ in range(3)]
        for stream in running:
            assert await stream.read() == b"begun"
        refused = [call(channel, "Hold", bytes(2**19)) for _ in range(10)]
        for stream in refused:
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await stream.read()
            assert error.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            status = rpc_status.from_call(error.value)
            retry_info = error_details_pb2.RetryInfo()
            assert status is not None
            assert status.details[0].Unpack(retry_info)
            assert retry_info.retry_delay.ToMilliseconds() > 0
        assert (service.num_decoded, lifecycle.num_calls_refused) == (3, 10)
        # What ends calls is taken all the same.
        assert (await answers_and_status(call(channel, "Cancel", b"x")))[0] == [b"x"]
        health = health_pb2_grpc.HealthStub(channel)
        assert (await health.Check(health_pb2.HealthCheckRequest())).status == health_pb2.HealthCheckResponse.SERVING
        service.may_end.set()
        for stream in running:
            assert await stream.code() == grpc.StatusCode.OK
        assert await call(channel, "Hold", b"x").read() == b"begun"


async def test_message_is_not_kept_while_its_call_runs() -> None:
    async with _serving() as (service, _, channel):
        stream = call(channel, "Hold", b"x")
        assert await stream.read() == b"begun"
        assert service.num_running == 1
        assert [message() for message in service.held] == [None]
        service.may_end.set()


@pytest.mark.parametrize("error", [InvalidRequest("text: bad"), RuntimeError("broken")], ids=["refused", "broken"])
async def test_message_is_not_kept_by_the_status_that_its_call_ends_with(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[weakref.ref[Message]] = []

    async def fail(self: _Service, request: Message, context: Any) -> bytes:
        kept.append(weakref.ref(request))
        raise copy.copy(error)

    monkeypatch.setattr(_Service, "echo", fail)
    monkeypatch.setattr(logging.getLogger("services.common.serving.interceptors"), "disabled", True)
    # A cycle would be found some time, after thousands of large messages.
    gc.disable()
    try:
        async with _serving() as (_, _, channel):
            for _ in range(3):
                assert (await answers_and_status(call(channel, "Echo", b"x")))[0] == []
            await until(lambda: [message() for message in kept] == [None] * 3)
    finally:
        gc.enable()


async def test_bytes_of_refused_messages_are_not_kept_until_somebody_looks_for_cycles(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def refuse(self: _Service, request: Message, context: Any) -> bytes:
        raise InvalidRequest("text: bad")

    monkeypatch.setattr(_Service, "echo", refuse)
    message = bytes(2**20 - 1024)
    gc.disable()
    tracemalloc.start()
    try:
        async with _serving() as (_, _, channel):
            for _ in range(20):
                assert (await answers_and_status(call(channel, "Echo", message)))[
                    1
                ] == grpc.StatusCode.INVALID_ARGUMENT
            kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        gc.enable()
    # Client and server are one process here: each may have the last one in its hands.
    assert kept < 4 * len(message)


async def test_call_without_a_deadline_ends_after_the_default_one() -> None:
    async with _serving(default_deadline_s=0.05) as (service, _, channel):
        answers, code, details = await answers_and_status(call(channel, "Hold", b"x"))
        assert (answers, code) == ([b"begun"], grpc.StatusCode.DEADLINE_EXCEEDED)
        assert details.startswith("default_deadline_s: the call named no deadline")
        await until(lambda: service.num_running == 0)


async def test_call_with_a_deadline_of_its_own_or_a_stream_of_requests_has_no_default_one() -> None:
    async with _serving(default_deadline_s=0.05) as (service, _, channel):
        own = call(channel, "Hold", b"x", timeout=60)
        assert await own.read() == b"begun"
        never = asyncio.Event()

        async def requests() -> AsyncIterator[bytes]:
            yield b"a"
            await never.wait()

        stub: Any = channel.stream_stream(f"/{NAME}/Chat")
        chat = stub(requests())
        assert await chat.read() == b"a"
        default = call(channel, "Hold", b"x")
        assert (await answers_and_status(default))[1] == grpc.StatusCode.DEADLINE_EXCEEDED
        assert not own.done()
        assert not chat.done()
        service.may_end.set()
        assert await own.code() == grpc.StatusCode.OK
        chat.cancel()


async def test_status_text_that_quotes_input_reaches_the_client_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(self: _Service, request: Message, context: Any) -> bytes:
        raise InvalidRequest(f"text: {'漢' * 100_000} and \x00")

    monkeypatch.setattr(_Service, "echo", refuse)
    async with _serving() as (_, _, channel):
        _, code, details = await answers_and_status(call(channel, "Echo", b"x"))
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert details.startswith("text: 漢")
    assert details.endswith(r"and \x00")
