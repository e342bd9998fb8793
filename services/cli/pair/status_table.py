"""The table of `trivium up`: a row a service.

Owns its columns. What is in them was probed by `services.cli.pair.local_pair`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath

from rich.table import Table
from trivium.v1 import common_pb2
from trivium.v1 import orchestrator_pb2 as pb
from trivium.v1.llm_pb2 import LlmServiceGetServerInfoResponse
from trivium.v1.router_pb2 import RouterServiceGetServerInfoResponse
from trivium.v1.slm_pb2 import SlmServiceGetServerInfoResponse

from services.cli.figures import parameters
from services.cli.pair.probe import Probe, ServerInfo
from services.cli.pair.service_process import ServiceProcess

_HEALTH_STYLES = {"SERVING": "green", "NOT_SERVING": "yellow", "UNREACHABLE": "red"}


def status_table(processes: Sequence[ServiceProcess], probes: Sequence[Probe], footer: str) -> Table:
    """Lays out what is known of each service.

    Args:
        processes: The services that were started.
        probes: What those that listen answered.
        footer: A line below the table.
    """
    answers = {probe.service: probe for probe in probes}
    table = Table(caption=footer, caption_justify="left")
    for column in ("service", "pid", "port", "health", "serves", "load"):
        table.add_column(column)
    for process in processes:
        answer = answers.get(process.name)
        if answer is None:
            table.add_row(process.name, str(process.pid), "", "[yellow]starting[/]")
            continue
        health = f"[{_HEALTH_STYLES[answer.health]}]{answer.health}[/]"
        port = answer.address.rpartition(":")[2]
        table.add_row(process.name, str(process.pid), port, health, serves(answer.info), load(answer.info))
    return table


def serves(info: ServerInfo | None) -> str:
    """What a service serves, in a few words; empty if it didn't say."""
    match info:
        case SlmServiceGetServerInfoResponse() | LlmServiceGetServerInfoResponse():
            model = info.model
            return f"{short_name(model.model_id)} ({parameters(model.num_parameters)}, {model.engine})"
        case RouterServiceGetServerInfoResponse():
            router = info.router
            size = parameters(router.num_parameters)
            return f"{short_name(router.checkpoint)} ({size}, threshold {router.default_threshold:.4g})"
        case pb.OrchestratorServiceGetServerInfoResponse():
            return f"{short_name(info.slm.model_id)} + {short_name(info.llm.model_id)}"
    return ""


def load(info: ServerInfo | None) -> str:
    """What a service is doing, in a few words; empty if it didn't say."""
    match info:
        case SlmServiceGetServerInfoResponse() | LlmServiceGetServerInfoResponse():
            return _engine_load(info.load)
        case RouterServiceGetServerInfoResponse():
            return f"{info.load.num_rows:,} rows scored, {info.load.num_rows_waiting} waiting"
        case pb.OrchestratorServiceGetServerInfoResponse():
            index = "" if info.load.prefix_index_available else ", no Redis"
            return f"{info.load.num_active_requests} requests, {info.load.num_tokens_accepted:,} tokens so far{index}"
    return ""


def short_name(model_id: str) -> str:
    """The last part of a Hugging Face id or directory."""
    return PurePath(model_id).name


def _engine_load(load: common_pb2.EngineLoad) -> str:
    used = load.num_kv_tokens_used / load.num_kv_tokens_capacity if load.num_kv_tokens_capacity else 0.0
    return f"{load.num_active_sequences} sequences, KV {used:.0%}"
