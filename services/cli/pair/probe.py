"""Asks a running service how it is and what it is.

Owns the health check and `GetServerInfo` of the four services, and the health check of the gateway, all with a short
deadline. Draws no conclusions.
"""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, TypeAlias

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from trivium.v1 import (
    llm_pb2,
    llm_pb2_grpc,
    orchestrator_pb2,
    orchestrator_pb2_grpc,
    router_pb2,
    router_pb2_grpc,
    slm_pb2,
    slm_pb2_grpc,
)

from services.cli.channel import local_channel, metadata, tls_socket


@dataclass(frozen=True, slots=True)
class GatewayInfo:
    """What a gateway is.

    Attributes:
        model: What its clients call the pair.
    """

    model: str


Health = Literal["SERVING", "NOT_SERVING", "UNREACHABLE"]
ServerInfo: TypeAlias = (
    slm_pb2.SlmServiceGetServerInfoResponse
    | router_pb2.RouterServiceGetServerInfoResponse
    | llm_pb2.LlmServiceGetServerInfoResponse
    | orchestrator_pb2.OrchestratorServiceGetServerInfoResponse
    | GatewayInfo
)

_Metadata: TypeAlias = tuple[tuple[str, str], ...]
_INFO: dict[str, Callable[[grpc.Channel, float, _Metadata], ServerInfo]] = {
    "slm": lambda channel, timeout_s, metadata: slm_pb2_grpc.SlmServiceStub(channel).GetServerInfo(
        slm_pb2.SlmServiceGetServerInfoRequest(), timeout=timeout_s, metadata=metadata
    ),
    "router": lambda channel, timeout_s, metadata: router_pb2_grpc.RouterServiceStub(channel).GetServerInfo(
        router_pb2.RouterServiceGetServerInfoRequest(), timeout=timeout_s, metadata=metadata
    ),
    "llm": lambda channel, timeout_s, metadata: llm_pb2_grpc.LlmServiceStub(channel).GetServerInfo(
        llm_pb2.LlmServiceGetServerInfoRequest(), timeout=timeout_s, metadata=metadata
    ),
    "orchestrator": lambda channel, timeout_s, metadata: orchestrator_pb2_grpc.OrchestratorServiceStub(
        channel
    ).GetServerInfo(orchestrator_pb2.OrchestratorServiceGetServerInfoRequest(), timeout=timeout_s, metadata=metadata),
}


@dataclass(frozen=True, slots=True)
class Probe:
    """What a service answered.

    Attributes:
        service: "slm", "router", "llm", "orchestrator" or "gateway".
        address: Where it was asked.
        health: Its health, or that it didn't answer.
        latency_ms: Round trip of the health check on an open connection; None if it didn't answer.
        info: What it is; None if it didn't say.
        error: Code and message of the failed call; empty if there was none.
    """

    service: str
    address: str
    health: Health
    latency_ms: float | None = None
    info: ServerInfo | None = None
    error: str = ""


def probe(service: str, address: str, *, timeout_s: float = 2.0) -> Probe:
    """Asks one service for its health and what it is.

    Args:
        service: "slm", "router", "llm", "orchestrator" or "gateway".
        address: "host:port", of a gateway with HTTPS "https://host:port".
        timeout_s: Deadline of each call, in seconds.

    Raises:
        CliError: The environment's TLS can't be used.
    """
    if service == "gateway":
        return _probe_gateway(address, timeout_s)
    with local_channel(address) as channel:
        check = health_pb2_grpc.HealthStub(channel).Check
        health: Health = "UNREACHABLE"
        latency_ms = None
        try:
            check(health_pb2.HealthCheckRequest(), timeout=timeout_s)
            started = time.perf_counter()
            status = check(health_pb2.HealthCheckRequest(), timeout=timeout_s).status
            latency_ms = (time.perf_counter() - started) * 1000
            health = "SERVING" if status == health_pb2.HealthCheckResponse.SERVING else "NOT_SERVING"
            key = metadata() if service == "orchestrator" else ()
            info = _INFO[service](channel, timeout_s, key)
        except grpc.RpcError as error:
            return Probe(service, address, health, latency_ms, None, f"{error.code().name}: {error.details()}")
    return Probe(service, address, health, latency_ms, info)


def _probe_gateway(address: str, timeout_s: float) -> Probe:
    scheme, _, host = address.rpartition("://")
    connect = http.client.HTTPSConnection if scheme == "https" else http.client.HTTPConnection
    connection = connect(host, timeout=timeout_s)
    try:
        if scheme == "https":
            connection.sock = tls_socket(connection.host, connection.port, timeout_s)
        started = time.perf_counter()
        connection.request("GET", "/health")
        response = connection.getresponse()
        said = json.loads(response.read())
        latency_ms = (time.perf_counter() - started) * 1000
        if response.status == 200:
            return Probe("gateway", address, "SERVING", latency_ms, GatewayInfo(said["model"]))
        return Probe("gateway", address, "NOT_SERVING", latency_ms, None, said["error"]["message"])
    except (OSError, http.client.HTTPException) as error:
        return Probe("gateway", address, "UNREACHABLE", error=str(error))
    except (ValueError, LookupError, TypeError):
        return Probe("gateway", address, "UNREACHABLE", error="what answers there is no gateway")
    finally:
        connection.close()


def probe_all(addresses: Mapping[str, str], *, timeout_s: float = 2.0) -> list[Probe]:
    """Asks services at the same time, so that those that hang cost no more than one.

    Args:
        addresses: "host:port" by service.
        timeout_s: Deadline of each call, in seconds.
    """
    pool = ThreadPoolExecutor(max(1, len(addresses)))
    try:
        return list(pool.map(lambda item: probe(*item, timeout_s=timeout_s), addresses.items()))
    finally:
        # Ctrl-C waits for no service.
        pool.shutdown(wait=False, cancel_futures=True)


def index_problem(probes: Sequence[Probe]) -> str:
    """What is wrong with Redis, as the orchestrator among these tells; empty if nothing is, or if it didn't say."""
    for found in probes:
        if isinstance(found.info, orchestrator_pb2.OrchestratorServiceGetServerInfoResponse):
            problem = found.info.load.prefix_index_problem
            return f"{problem}: answers go on, with more prefill and no resuming after a crash" if problem else ""
    return ""
