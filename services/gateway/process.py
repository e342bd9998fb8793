"""The gateway as a process: listens, learns which pair is served, serves, drains, stops."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from functools import partial

from services.client import AsyncClient
from services.common.access.keys import Keys
from services.common.access.keys_file import KeysFileError
from services.common.serving.channels import open_channel
from services.common.serving.logs import configure_logging
from services.common.serving.server import stop_event, write_port
from services.common.serving.telemetry import Telemetry
from services.gateway.app import anyone, create_app, create_operations_app
from services.gateway.http_server import create_server, listening_socket
from services.gateway.https import RenewingContext
from services.gateway.keys import KeyCheck
from services.gateway.metrics import Counts, instrument
from services.gateway.middleware import Door
from services.gateway.pair import PairWatch
from services.gateway.settings import GatewaySettings
from services.gateway.state import Gateway

logger = logging.getLogger(__name__)

NAME = "trivium.gateway"


async def serve(settings: GatewaySettings) -> int:
    """Runs the gateway until SIGTERM or SIGINT.

    Returns:
        The exit code: 0 after a drain, 1 where the port is taken or the keys can't be used.
    """
    configure_logging(settings.log_level, service=NAME, replica_id=settings.replica_id)
    # It logs each connection's fate, and is heard where something is wrong.
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    try:
        keys = Keys(settings.keys_file) if settings.keys_file else None
    except KeysFileError as error:
        sys.stderr.write(f"keys_file: {error}\n")
        return 1
    ports = [settings.port, *([settings.health_port] if settings.health_port else ())]
    listeners: list[socket.socket] = []
    for port in ports:
        try:
            listeners.append(listening_socket(settings.host, port))
        except OSError as error:
            sys.stderr.write(f"can't listen on {settings.host}:{port}: is the port taken? ({error})\n")
            return 1
    port = listeners[0].getsockname()[1]
    stopping = stop_event()
    counts = Counts()
    telemetry = Telemetry(NAME, settings.replica_id)
    instrument(telemetry, counts)
    async with AsyncClient(
        list(settings.orchestrator),
        timeout_s=settings.timeout_s,
        retry_s=settings.retry_s,
        open_channel=partial(open_channel, tls=settings.channel_tls),
    ) as orchestrators:
        watch = PairWatch(orchestrators, settings.model_name)
        gateway = Gateway(settings, orchestrators, watch, Door(counts), counts, telemetry)
        header_timeout_s = settings.header_timeout_s
        tls = RenewingContext(settings.https_files) if settings.https_files else None
        app = create_app(gateway, KeyCheck(keys) if keys else anyone)
        servers = [create_server(app, header_timeout_s=header_timeout_s, tls=tls)]
        if settings.health_port:
            servers.append(create_server(create_operations_app(gateway), header_timeout_s=header_timeout_s))
        serving = [
            asyncio.create_task(server.serve([listener])) for server, listener in zip(servers, listeners, strict=True)
        ]
        following = [asyncio.create_task(watch.run())]
        if keys:
            following.append(asyncio.create_task(keys.follow()))
        logger.info("listening", extra={"host": settings.host, "port": port})
        if settings.port_file:
            write_port(settings.port_file, port)
        try:
            await stopping.wait()
            await _drain(gateway, settings.drain_timeout_s)
        finally:
            for server in servers:
                server.should_exit = True
            await asyncio.gather(*serving)
            for task in following:
                task.cancel()
            await asyncio.gather(*following, return_exceptions=True)
            telemetry.close()
    logger.info("stopped")
    return 0


async def _drain(gateway: Gateway, timeout_s: float) -> None:
    """Sends callers away, and waits for what runs."""
    gateway.door.is_closing = True
    logger.info("draining", extra={"num_active": gateway.counts.num_active})
    try:
        async with asyncio.timeout(timeout_s):
            await gateway.door.idle.wait()
    except TimeoutError:
        logger.warning("drain timeout, cutting off", extra={"num_active": gateway.counts.num_active})
