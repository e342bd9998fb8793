"""The table of `trivium up`: a row a service, and one for Redis.

Owns its columns. What is in them was probed by `services.cli.pair.local_pair`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath

from rich.markup import escape
from rich.table import Table
from trivium.v1 import common_pb2
from trivium.v1 import orchestrator_pb2 as pb
from trivium.v1.llm_pb2 import LlmServiceGetServerInfoResponse
from trivium.v1.router_pb2 import RouterServiceGetServerInfoResponse
from trivium.v1.slm_pb2 import SlmServiceGetServerInfoResponse

from services.cli.figures import parameters
from services.cli.pair.probe import GatewayInfo, Probe, ServerInfo, index_problem
from services.cli.pair.redis_server import RedisServer
from services.cli.pair.supervisor import Supervised

_HEALTH_STYLES = {"SERVING": "green", "NOT_SERVING": "yellow", "UNREACHABLE": "red"}
_STARTING = "[yellow]starting[/]"


def status_table(children: Sequence[Supervised], probes: Sequence[Probe], footer: str) -> Table:
    """Lays out what is known of each child.

    Args:
        children: What was started. Without a Redis among them, the pair uses another one.
        probes: What the services that listen answered.
        footer: A line below the table, and below those that tell what was started again, and why.
    """
    answers = {probe.service: probe for probe in probes}
    notes = [f"{one.child.name}: {escape(one.last_end)}" for one in children if one.last_end]
    if problem := index_problem(probes):
        notes.append(f"[yellow]redis: {escape(problem)}[/]")
    table = Table(caption="\n".join([*notes, footer]), caption_justify="left")
    for column in ("service", "pid", "port", "health", "restarts", "serves", "load"):
        # A line a service: what doesn't fit is cut, and all of it is seen on a screen of 24 lines.
        table.add_column(column, no_wrap=True)
    if not any(isinstance(one.child, RedisServer) for one in children):
        table.add_row(
            "redis", "", "", _index_health(answers.get("orchestrator")), "", "prefix index (--redis-url)", ""
        )
    for one in children:
        name, pid, restarts = one.child.name, str(one.child.pid) if one.is_up else "", str(one.num_restarts or "")
        answer = answers.get(name)
        if isinstance(one.child, RedisServer):
            health = _styled("SERVING") if one.child.answers else _STARTING
            table.add_row(name, pid, "socket", health, restarts, "prefix index", "")
        elif answer is None:
            table.add_row(name, pid, "", _STARTING, restarts)
        else:
            port = answer.address.rpartition(":")[2]
            health = _styled(answer.health)
            table.add_row(name, pid, port, health, restarts, serves(answer.info), load(answer.info))
    return table


def _styled(health: str) -> str:
    return f"[{_HEALTH_STYLES[health]}]{health}[/]"


def _index_health(orchestrator: Probe | None) -> str:
    """How a Redis of another's is, as the orchestrator tells."""
    match orchestrator and orchestrator.info:
        case pb.OrchestratorServiceGetServerInfoResponse() as info:
            return _styled("SERVING" if info.load.prefix_index_available else "UNREACHABLE")
    return _STARTING


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
            rule = "".join(f", by {rule.name}" for rule in info.rules if rule.is_default)
            return f"{short_name(info.slm.model_id)} + {short_name(info.llm.model_id)}{rule}"
        case GatewayInfo():
            return f"{info.model} to OpenAI's clients"
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
