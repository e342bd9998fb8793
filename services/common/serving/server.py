"""Runs one gRPC service as a process: listens, loads, serves, drains, stops.

Owns the order of these steps and what SIGTERM does. Knows nothing of what a service computes.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import grpc
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from services.common.serving.interceptors import CallGuard, Door
from services.common.serving.lifecycle import Lifecycle
from services.common.serving.logs import configure_logging
from services.common.serving.settings import ProcessSettings
from services.common.serving.telemetry import Telemetry
from services.common.serving.tls import server_credentials

logger = logging.getLogger(__name__)

# Lets statuses of calls that just ended reach their clients.
_CLOSE_GRACE_S = 0.5


class Service(Protocol):
    """What a process serves. The server calls the methods in the order in which they stand here."""

    def register(self, server: grpc.aio.Server) -> None:
        """Adds the servicer to the server, which isn't listening yet."""

    def instrument(self, telemetry: Telemetry) -> None:
        """Says what is counted. Not called where nobody may ask. Counts are asked for before `start` as well."""

    async def start(self) -> None:
        """Loads and warms up. Calls are refused until it returns, while health is answered NOT_SERVING.

        Raises:
            ValueError: It can't ever start; the message says why. The process ends with code 1.
        """

    async def run(self) -> None:
        """Does the work that calls wait for, until cancelled. An exception ends the process with code 1."""

    async def drain(self) -> None:
        """Returns once nothing runs that is worth waiting for, and ends the calls that would stay open.

        New calls are refused already. Cancelled when the drain timeout is over. An exception ends the process with
        code 1.
        """

    async def stop(self) -> None:
        """Frees everything. Called after `start` was, whether or not that succeeded."""


async def serve(service: Service, lifecycle: Lifecycle, settings: ProcessSettings, door: Door | None = None) -> int:
    """Runs a service until SIGTERM or SIGINT.

    Args:
        service: What to serve.
        lifecycle: The state of this process, shared with the service.
        settings: Settings of this process.
        door: Who may call; anybody if None.

    Returns:
        The exit code: 0 after a drain; 1 where the port is taken, the service can't start, or its work or its drain
        failed.
    """
    configure_logging(settings.log_level, service=lifecycle.service_name, replica_id=lifecycle.replica_id)
    guard = CallGuard(lifecycle, settings.call_limits, door)
    server = create_server(service, lifecycle, guard, settings)
    probed = _health_server(lifecycle, settings)
    try:
        port = listen(server, settings)
        if probed:
            probed.add_insecure_port(f"{settings.host}:{settings.health_port}")
    except RuntimeError as error:
        where = " or ".join(f"{settings.host}:{port}" for port in (settings.port, settings.health_port) if port)
        sys.stderr.write(f"can't listen on {where}: is the port taken? ({error})\n")
        return 1
    try:
        telemetry = _serve_metrics(service, lifecycle, settings)
    except OSError as error:
        address = f"{settings.host}:{settings.metrics_port}"
        sys.stderr.write(f"can't serve metrics_port on {address}: is the port taken? ({error})\n")
        return 1
    stopping = stop_event()
    await lifecycle.publish()
    await server.start()
    if probed:
        await probed.start()
    logger.info("listening", extra={"host": settings.host, "port": port, "metrics_port": settings.metrics_port})
    if settings.port_file:
        write_port(settings.port_file, port)
    try:
        exit_code = await _live(service, lifecycle, guard, settings.drain_timeout_s, stopping)
    finally:
        await server.stop(_CLOSE_GRACE_S)
        await service.stop()
        if probed:
            await probed.stop(None)
        if telemetry:
            await asyncio.to_thread(telemetry.close)
    logger.info("stopped", extra={"exit_code": exit_code})
    return exit_code


def create_server(
    service: Service, lifecycle: Lifecycle, guard: CallGuard, settings: ProcessSettings
) -> grpc.aio.Server:
    """Assembles a server with everything that each of the project's servers has. It isn't listening yet.

    Args:
        service: What to serve.
        lifecycle: The state of this process.
        guard: Guards the service's calls.
        settings: Settings of this process.
    """
    server = grpc.aio.server(interceptors=[guard], options=settings.server_options)
    service.register(server)
    health_pb2_grpc.add_HealthServicer_to_server(lifecycle.health, server)
    # Strangers aren't told what there is.
    if settings.reflection and not guard.has_door:
        names = (lifecycle.service_name, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, server)
    return server


def listen(server: grpc.aio.Server, settings: ProcessSettings) -> int:
    """Has a server listen where the settings say, with TLS where they have a certificate. Returns its port.

    Raises:
        RuntimeError: The port is taken.
        ValueError: The TLS files can't be used.
    """
    address = f"{settings.host}:{settings.port}"
    if settings.tls_files is None:
        return server.add_insecure_port(address)
    return server.add_secure_port(address, server_credentials(settings.tls_files))


def _health_server(lifecycle: Lifecycle, settings: ProcessSettings) -> grpc.aio.Server | None:
    if not settings.health_port:
        return None
    server = grpc.aio.server(options=settings.server_options)
    health_pb2_grpc.add_HealthServicer_to_server(lifecycle.health, server)
    return server


def _serve_metrics(service: Service, lifecycle: Lifecycle, settings: ProcessSettings) -> Telemetry | None:
    if not settings.metrics_port:
        return None
    telemetry = Telemetry(lifecycle.service_name, lifecycle.replica_id)
    service.instrument(telemetry)
    telemetry.listen(settings.host, settings.metrics_port)
    return telemetry


def write_port(path: Path, port: int) -> None:
    """Tells whoever waits for the file where this process listens."""
    # Whoever waits for the file must never read half of it.
    unfinished = path.with_name(f"{path.name}.{os.getpid()}")
    unfinished.write_text(f"{port}\n", encoding="ascii")
    unfinished.replace(path)


def stop_event() -> asyncio.Event:
    """Returns what SIGTERM and SIGINT set from now on."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    return stopping


async def _live(
    service: Service, lifecycle: Lifecycle, guard: CallGuard, drain_timeout_s: float, stopping: asyncio.Event
) -> int:
    """Starts and runs the service until it fails, or is drained after a signal. Returns the exit code."""
    started = asyncio.Event()
    working = asyncio.create_task(_work(service, lifecycle, started))
    signalled = asyncio.create_task(stopping.wait())
    draining: asyncio.Task[int] | None = None
    try:
        await asyncio.wait({working, signalled}, return_when=asyncio.FIRST_COMPLETED)
        await lifecycle.mark_draining()
        # Not whether it is ready: calls go on while it isn't.
        if started.is_set() and not working.done():
            # What runs still needs the work, so both go on side by side.
            draining = asyncio.create_task(_drain(service, guard, drain_timeout_s))
            await asyncio.wait({working, draining}, return_when=asyncio.FIRST_COMPLETED)
        ended = next((task for task in (working, draining) if task and task.done()), None)
        return ended.result() if ended else 0
    finally:
        await _cancel(task for task in (working, signalled, draining) if task)


async def _work(service: Service, lifecycle: Lifecycle, started: asyncio.Event) -> int:
    try:
        await service.start()
    except ValueError as error:
        logger.error("can't start: %s", error)
        return 1
    except Exception:
        logger.exception("can't start")
        return 1
    started.set()
    await lifecycle.mark_ready()
    logger.info("ready")
    try:
        await service.run()
    except Exception:
        logger.exception("stopped working")
    return 1


async def _drain(service: Service, guard: CallGuard, timeout_s: float) -> int:
    """Returns the exit code. Running calls have their time even where the service can't drain."""
    logger.info("draining", extra={"num_active_calls": guard.num_active_calls})
    exit_code = 0
    try:
        async with asyncio.timeout(timeout_s):
            try:
                await service.drain()
            except Exception:
                logger.exception("can't drain")
                exit_code = 1
            await guard.idle.wait()
    except TimeoutError:
        logger.warning("drain timeout, cutting off", extra={"num_active_calls": guard.num_active_calls})
    return exit_code


async def _cancel(tasks: Iterable[asyncio.Task[Any]]) -> None:
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    # Waits without raising: a task's own error was reported where it happened.
    await asyncio.gather(*tasks, return_exceptions=True)
