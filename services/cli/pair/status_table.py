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
_ORDER = ("service", "pid", "port", "health", "restarts", "serves", "load")
_LEAST = {"service": 12, "health": 11, "port": 6, "restarts": 8, "serves": 12, "pid": 7, "load": 12}
"""Characters of each column, that which matters most first."""
_FLEXIBLE = ("serves", "load")
_FRAME = 3


def status_table(
    children: Sequence[Supervised], probes: Sequence[Probe], footer: str, width: int | None = None
) -> Table:
    """Lays out what is known of each child, a line each.

    Args:
        children: What was started. Without a Redis among them, the pair uses another one.
        probes: What the services that listen answered.
        footer: A line below the table, and below those that tell what was started again, and why.
        width: Columns of the screen: where they aren't enough, what matters least is left out. None is enough.
    """
    answers = {probe.service: probe for probe in probes}
    notes = [f"{one.child.name}: {escape(one.last_end)}" for one in children if one.last_end]
    if problem := index_problem(probes):
        notes.append(f"[yellow]redis: {escape(problem)}[/]")
    rows = []
    if not any(isinstance(one.child, RedisServer) for one in children):
        health = _index_health(answers.get("orchestrator"))
        rows.append({"service": "redis", "health": health, "serves": "prefix index (--redis-url)"})
    rows += [_row(one, answers.get(one.child.name)) for one in children]
    table = Table(caption="\n".join([*notes, footer]), caption_justify="left")
    shown, room = _columns(rows, width)
    for name in shown:
        # All of it is seen on a screen of 24 lines, so what doesn't fit is cut.
        table.add_column(name, no_wrap=True, max_width=room if name in _FLEXIBLE else None)
    for row in rows:
        table.add_row(*(row.get(name, "") for name in shown))
    return table


def _row(one: Supervised, answer: Probe | None) -> dict[str, str]:
    row = {"service": one.child.name, "restarts": str(one.num_restarts or "")}
    if one.is_up:
        row["pid"] = str(one.child.pid)
    if isinstance(one.child, RedisServer):
        health = _styled("SERVING") if one.child.answers else _STARTING
        return {**row, "port": "socket", "health": health, "serves": "prefix index"}
    if answer is None:
        return {**row, "health": _STARTING}
    port, health = answer.address.rpartition(":")[2], _styled(answer.health)
    return {**row, "port": port, "health": health, "serves": serves(answer.info), "load": load(answer.info)}


def _columns(rows: Sequence[dict[str, str]], width: int | None) -> tuple[list[str], int | None]:
    """The columns that fit, in order, and the most that a flexible one may take."""
    names = [name for name in _LEAST if name != "restarts" or any(row.get(name) for row in rows)]
    if width is not None:
        while _needed(names) > width and len(names) > 1:
            names.pop()
    flexible = [name for name in names if name in _FLEXIBLE]
    room = None
    if width is not None and flexible:
        room = _LEAST[flexible[0]] + (width - _needed(names)) // len(flexible)
    return [name for name in _ORDER if name in names], room


def _needed(names: Sequence[str]) -> int:
    return 1 + sum(_LEAST[name] + _FRAME for name in names)


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
