from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import urllib.error
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status
from trivium.v1 import router_pb2, router_pb2_grpc

from services.common.errors import CapacityExceeded, InvalidRequest, PeerUnavailable, TokenizerMismatch
from services.common.serving.channels import open_channel
from services.common.serving.lifecycle import LIVENESS, Lifecycle
from services.common.serving.server import serve
from services.common.serving.telemetry import Telemetry
from tests.certificates import Authority
from tests.ports import free_port
from tests.scraping import scrape
from tests.serving import ServingSettings, error_of, read, until

NAME = "trivium.v1.RouterService"
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
INFO = router_pb2.RouterServiceGetServerInfoRequest()


class _Echo(router_pb2_grpc.RouterServiceServicer):
    """Echoes batch ids; ids from 100 on raise instead."""

    def __init__(self, lifecycle: Lifecycle) -> None:
        self.lifecycle = lifecycle
        self.may_start = asyncio.Event()
        self.may_drain = asyncio.Event()
        self.broken = asyncio.Event()
        self.start_error: Exception | None = None
        self.drain_error: Exception | None = None
        self.drained = False
        self.stopped = False
        self.num_open = 0

    def register(self, server: grpc.aio.Server) -> None:
        router_pb2_grpc.add_RouterServiceServicer_to_server(self, server)

    def instrument(self, telemetry: Telemetry) -> None:
        telemetry.gauge("trivium_test_open", "Open streams.", lambda: self.num_open)

    async def start(self) -> None:
        await self.may_start.wait()
        if self.start_error:
            raise self.start_error

    async def run(self) -> None:
        await self.broken.wait()
        raise RuntimeError("the engine broke")

    async def drain(self) -> None:
        await self.may_drain.wait()
        self.drained = True
        if self.drain_error:
            raise self.drain_error

    async def stop(self) -> None:
        self.stopped = True

    async def GetServerInfo(self, request: Any, context: Any) -> router_pb2.RouterServiceGetServerInfoResponse:
        return router_pb2.RouterServiceGetServerInfoResponse(replica=self.lifecycle.replica_info())

    async def Score(
        self, request_iterator: AsyncIterator[router_pb2.ScoreRequest], context: Any
    ) -> AsyncIterator[router_pb2.ScoreResponse]:
        self.num_open += 1
        errors = {100: InvalidRequest("batch_id: is 100"), 101: RuntimeError("secret"), 102: CapacityExceeded("full")}
        try:
            async for request in request_iterator:
                if error := errors.get(request.batch_id):
                    raise error
                yield router_pb2.ScoreResponse(batch_id=request.batch_id)
        finally:
            self.num_open -= 1


async def _health_of(channel: grpc.aio.Channel, name: str = "") -> health_pb2.HealthCheckResponse.ServingStatus:
    return (await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=name))).status


class _Running:
    def __init__(self, echo: _Echo, exit_code: asyncio.Task[int], channel: grpc.aio.Channel) -> None:
        self.echo = echo
        self.exit_code = exit_code
        self.channel = channel
        self.stub = router_pb2_grpc.RouterServiceStub(channel)

    async def health(self, name: str = "") -> health_pb2.HealthCheckResponse.ServingStatus:
        return await _health_of(self.channel, name)

    async def become_ready(self) -> None:
        self.echo.may_start.set()
        await until(lambda: self.echo.lifecycle.refusal is None)

    async def score_error(self, batch_id: int) -> grpc.aio.AioRpcError:
        return await error_of(self.stub.Score(), router_pb2.ScoreRequest(batch_id=batch_id))


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    """Undoes that a process configures the root logger."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


@asynccontextmanager
async def _running(tmp_path: Path, **settings: Any) -> AsyncIterator[_Running]:
    port_file = tmp_path / "port"
    lifecycle = Lifecycle(NAME, "r1")
    echo = _Echo(lifecycle)
    exit_code = asyncio.create_task(serve(echo, lifecycle, ServingSettings(port_file=port_file, **settings)))
    await until(port_file.exists)
    async with open_channel(f"127.0.0.1:{int(port_file.read_text())}") as channel:
        yield _Running(echo, exit_code, channel)
    if not exit_code.done():
        echo.may_drain.set()
        os.kill(os.getpid(), signal.SIGTERM)
    await exit_code


async def test_health_turns_serving_after_start_and_not_serving_on_drain(tmp_path: Path) -> None:
    async with _running(tmp_path) as running:
        assert [await running.health(), await running.health(NAME)] == [NOT_SERVING, NOT_SERVING]
        await running.become_ready()
        assert [await running.health(), await running.health(NAME)] == [SERVING, SERVING]
        os.kill(os.getpid(), signal.SIGTERM)
        await until(lambda: running.echo.lifecycle.draining)
        assert [await running.health(), await running.health(NAME)] == [NOT_SERVING, NOT_SERVING]


async def test_liveness_answers_serving_whether_or_not_calls_are_taken(tmp_path: Path) -> None:
    async with _running(tmp_path) as running:
        assert [await running.health(LIVENESS), await running.health()] == [SERVING, NOT_SERVING]
        await running.become_ready()
        os.kill(os.getpid(), signal.SIGTERM)
        await until(lambda: running.echo.lifecycle.draining)
        assert [await running.health(LIVENESS), await running.health()] == [SERVING, NOT_SERVING]


async def test_call_before_ready_is_unavailable(tmp_path: Path) -> None:
    async with _running(tmp_path) as running:
        error = await running.score_error(1)
        assert (error.code(), error.details()) == (grpc.StatusCode.UNAVAILABLE, f"{NAME} is starting")


async def test_call_while_marked_not_ready_fails_with_the_reason(tmp_path: Path) -> None:
    async with _running(tmp_path) as running:
        await running.become_ready()
        await running.echo.lifecycle.mark_not_ready(TokenizerMismatch("slm a, llm b"))
        error = await running.score_error(1)
        assert (error.code(), error.details()) == (grpc.StatusCode.FAILED_PRECONDITION, "slm a, llm b")
        assert await running.health() == NOT_SERVING
        await running.echo.lifecycle.mark_ready()
        assert await running.health() == SERVING


async def test_drain_running_stream_goes_on_and_new_one_is_refused(tmp_path: Path) -> None:
    async with _running(tmp_path) as running:
        await running.become_ready()
        call = running.stub.Score()
        await call.write(router_pb2.ScoreRequest(batch_id=1))
        assert (await read(call)).batch_id == 1
        running.echo.may_drain.set()
        os.kill(os.getpid(), signal.SIGTERM)
        await until(lambda: running.echo.lifecycle.draining)
        error = await running.score_error(2)
        assert (error.code(), error.details()) == (grpc.StatusCode.UNAVAILABLE, f"{NAME} is about to stop")
        assert (await running.stub.GetServerInfo(INFO)).replica.draining
        await call.write(router_pb2.ScoreRequest(batch_id=3))
        assert (await read(call)).batch_id == 3
        assert not running.exit_code.done()
        await call.done_writing()
        assert await call.code() == grpc.StatusCode.OK
        assert await running.exit_code == 0
        assert running.echo.stopped


async def test_drain_beyond_the_timeout_cuts_off_and_exits_0(tmp_path: Path) -> None:
    async with _running(tmp_path, drain_timeout_s=0.1) as running:
        await running.become_ready()
        call = running.stub.Score()
        await call.write(router_pb2.ScoreRequest(batch_id=1))
        await read(call)
        os.kill(os.getpid(), signal.SIGTERM)
        assert await running.exit_code == 0
        assert await call.code() == grpc.StatusCode.UNAVAILABLE


async def test_drain_failing_lets_running_streams_end_then_exits_1_and_logs_why(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    async with _running(tmp_path) as running:
        await running.become_ready()
        call = running.stub.Score()
        await call.write(router_pb2.ScoreRequest(batch_id=1))
        assert (await read(call)).batch_id == 1
        running.echo.drain_error = RuntimeError("no way out")
        running.echo.may_drain.set()
        os.kill(os.getpid(), signal.SIGTERM)
        await until(lambda: running.echo.lifecycle.draining)
        await call.write(router_pb2.ScoreRequest(batch_id=2))
        assert (await read(call)).batch_id == 2
        await call.done_writing()
        assert await call.code() == grpc.StatusCode.OK
        assert await running.exit_code == 1
    assert capfd.readouterr().err.count("RuntimeError: no way out") == 1


async def test_drain_while_marked_not_ready_lets_running_streams_end(tmp_path: Path) -> None:
    async with _running(tmp_path) as running:
        await running.become_ready()
        call = running.stub.Score()
        await call.write(router_pb2.ScoreRequest(batch_id=1))
        assert (await read(call)).batch_id == 1
        await running.echo.lifecycle.mark_not_ready(PeerUnavailable("slm: none is left"))
        running.echo.may_drain.set()
        os.kill(os.getpid(), signal.SIGTERM)
        await until(lambda: running.echo.lifecycle.draining)
        await call.write(router_pb2.ScoreRequest(batch_id=2))
        assert (await read(call)).batch_id == 2
        await call.done_writing()
        assert await call.code() == grpc.StatusCode.OK
        assert await running.exit_code == 0
        assert running.echo.drained


async def test_stop_before_ready_exits_0(tmp_path: Path) -> None:
    async with _running(tmp_path) as running:
        os.kill(os.getpid(), signal.SIGINT)
        assert await running.exit_code == 0
        assert running.echo.stopped


async def test_start_failing_exits_1_and_logs_why(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    async with _running(tmp_path) as running:
        running.echo.start_error = ValueError("model: no such directory")
        running.echo.may_start.set()
        assert await running.exit_code == 1
    logged = capfd.readouterr().err
    assert "can't start: model: no such directory" in logged
    assert "Traceback" not in logged


async def test_work_failing_exits_1_and_ends_streams_not_ok(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    async with _running(tmp_path) as running:
        await running.become_ready()
        call = running.stub.Score()
        await call.write(router_pb2.ScoreRequest(batch_id=1))
        await read(call)
        running.echo.broken.set()
        assert await running.exit_code == 1
        assert await call.code() == grpc.StatusCode.UNAVAILABLE
    assert capfd.readouterr().err.count("RuntimeError: the engine broke") == 1


async def test_port_taken_exits_1_and_says_so(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    async with _running(tmp_path) as running:
        port = int((tmp_path / "port").read_text())
        lifecycle = Lifecycle(NAME, "r2")
        assert await serve(_Echo(lifecycle), lifecycle, ServingSettings(port=port)) == 1
        assert f"can't listen on 127.0.0.1:{port}" in capfd.readouterr().err
        await running.become_ready()
        await running.stub.GetServerInfo(INFO)


async def test_metrics_port_taken_exits_1_and_says_so(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    lifecycle = Lifecycle(NAME, "r1")
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert await serve(_Echo(lifecycle), lifecycle, ServingSettings(metrics_port=port)) == 1
    assert f"can't serve metrics_port on 127.0.0.1:{port}: is the port taken?" in capfd.readouterr().err


async def test_metrics_are_served_before_ready_and_until_the_end(tmp_path: Path) -> None:
    port = free_port()
    async with _running(tmp_path, metrics_port=port) as running:
        assert (await asyncio.to_thread(scrape, port)).values["trivium_test_open"] == 0
        await running.become_ready()
        call = running.stub.Score()
        await call.write(router_pb2.ScoreRequest(batch_id=1))
        await read(call)
        assert (await asyncio.to_thread(scrape, port)).values["trivium_test_open"] == 1
    with pytest.raises(urllib.error.URLError):
        await asyncio.to_thread(scrape, port)


@pytest.mark.parametrize(
    ("batch_id", "code", "details"),
    [
        (100, grpc.StatusCode.INVALID_ARGUMENT, "batch_id: is 100"),
        (101, grpc.StatusCode.INTERNAL, "internal error"),
        (102, grpc.StatusCode.RESOURCE_EXHAUSTED, "full"),
    ],
)
async def test_stream_error_raised_becomes_its_status(
    tmp_path: Path, batch_id: int, code: grpc.StatusCode, details: str, capfd: pytest.CaptureFixture[str]
) -> None:
    async with _running(tmp_path) as running:
        await running.become_ready()
        error = await running.score_error(batch_id)
        assert (error.code(), error.details()) == (code, details)
        has_pushback = ("grpc-retry-pushback-ms", "1000") in tuple(error.trailing_metadata())
        assert has_pushback == (code == grpc.StatusCode.RESOURCE_EXHAUSTED)
        assert _retry_delay_s(error) == (1 if code == grpc.StatusCode.RESOURCE_EXHAUSTED else None)
    assert capfd.readouterr().err.count("RuntimeError: secret") == (1 if batch_id == 101 else 0)


def _retry_delay_s(error: grpc.aio.AioRpcError) -> float | None:
    """What `google.rpc.RetryInfo` in the status says, as any client library reads it."""
    status = rpc_status.from_call(error)
    if status is None:
        return None
    retry_info = error_details_pb2.RetryInfo()
    (detail,) = status.details
    assert detail.Unpack(retry_info)
    return float(retry_info.retry_delay.ToTimedelta().total_seconds())


async def test_stream_cancelled_ends_its_handler_and_logs_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    async with _running(tmp_path) as running:
        await running.become_ready()
        call = running.stub.Score()
        await call.write(router_pb2.ScoreRequest(batch_id=1))
        await read(call)
        call.cancel()
        await until(lambda: running.echo.num_open == 0)
    assert "ERROR" not in capfd.readouterr().err


async def test_message_over_the_limit_ends_its_stream_only(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    async with _running(tmp_path, max_message_mb=1) as running:
        await running.become_ready()
        other = running.stub.Score()
        call = running.stub.Score()
        error = await error_of(call, router_pb2.ScoreRequest(token_ids=[1] * 2_000_000))
        assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        await other.write(router_pb2.ScoreRequest(batch_id=5))
        assert (await read(other)).batch_id == 5
        assert await running.health() == SERVING
    assert "Traceback" not in capfd.readouterr().err


async def test_health_port_answers_in_plain_text_beside_a_door_with_tls(tmp_path: Path) -> None:
    secret = Authority().issue(tmp_path)
    tls = {"tls_cert_file": secret.certificate, "tls_key_file": secret.key, "tls_client_ca_file": secret.ca}
    health_port = free_port()
    async with (
        _running(tmp_path, health_port=health_port, **tls) as running,
        open_channel(f"127.0.0.1:{health_port}") as plain,
    ):
        assert await _health_of(plain) == NOT_SERVING
        await running.become_ready()
        assert await _health_of(plain) == SERVING
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await running.health()
        assert error.value.code() is grpc.StatusCode.UNAVAILABLE
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await router_pb2_grpc.RouterServiceStub(plain).GetServerInfo(INFO)
        assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_health_port_that_is_taken_ends_the_process_with_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        lifecycle = Lifecycle(NAME, "r1")
        assert await serve(_Echo(lifecycle), lifecycle, ServingSettings(health_port=port)) == 1
    assert f"127.0.0.1:{port}" in capsys.readouterr().err


@pytest.mark.parametrize("reflection", [True, False])
async def test_reflection_lists_the_service_if_switched_on(tmp_path: Path, reflection: bool) -> None:
    async with _running(tmp_path, reflection=reflection) as running:
        call = reflection_pb2_grpc.ServerReflectionStub(running.channel).ServerReflectionInfo()
        if not reflection:
            assert await call.code() == grpc.StatusCode.UNIMPLEMENTED
            return
        await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        response = await read(call)
        assert NAME in [service.name for service in response.list_services_response.service]
        call.cancel()
