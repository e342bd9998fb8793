"""`trivium doctor`: what is installed, what answers, what is served, and what is wrong.

Owns the report and its exit code. `services.cli.doctor.installed` and `services.cli.doctor.fit` find the facts.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import typer
from google.protobuf.json_format import MessageToDict
from rich.table import Table
from rich.text import Text

from services.cli.console import out
from services.cli.doctor.fit import misfits
from services.cli.doctor.installed import Component, installed_components
from services.cli.doctor.kv_budget import kv_advice
from services.cli.options import DEFAULT_ADDRESS
from services.cli.pair.probe import GatewayInfo, Probe, ServerInfo, index_problem, probe_all
from services.cli.pair.state import RunningPair, load_state
from services.cli.pair.status_table import load, serves

_WIDE = 80
"""Columns from which there is room for all of the services' table."""


@dataclasses.dataclass(frozen=True, slots=True)
class Findings:
    """What a report comes to.

    Attributes:
        problems: What is wrong.
        advice: What works, and could work better.
    """

    problems: Sequence[str]
    advice: Sequence[str]


def run_doctor(given: Mapping[str, str], *, state_dir: Path, as_json: bool, allow_other_slm: bool = False) -> None:
    """Examines a pair.

    Args:
        given: Addresses by service, from the command line. Without an orchestrator among them, the other services
            are those of the pair that runs here, if one does; with one, the others belong to another pair.
        state_dir: Where a running pair is looked for.
        as_json: Print one JSON object.
        allow_other_slm: As of `misfits`.

    Raises:
        typer.Exit: With code 1 if something is wrong.
    """
    state = None if "orchestrator" in given else load_state(state_dir)
    addresses = dict(given) if given and state is None else {**known_addresses(state), **given}
    probes = probe_all(addresses)
    components = installed_components()
    found = misfits(probes, allow_other_slm=allow_other_slm)
    problems = [*_missing(components), *_ended(state, addresses), *_down(probes), *found]
    if index := index_problem(probes):
        problems.append(f"the orchestrator's Redis: {index}")
    findings = Findings(problems, kv_advice(probes))
    if as_json:
        out.print_json(json.dumps(_as_dict(components, probes, state, findings)), indent=2)
    else:
        _show(components, probes, state, findings)
    if problems:
        raise typer.Exit(1)


def known_addresses(state: RunningPair | None) -> dict[str, str]:
    """Where the services of the pair that runs here are; without one, where an orchestrator would be by default."""
    return dict(state.addresses) if state and state.addresses else {"orchestrator": DEFAULT_ADDRESS}


def _missing(components: Sequence[Component]) -> list[str]:
    return [f"{item.name} is missing: {item.remedy}" for item in components if item.required and not item.version]


def _ended(state: RunningPair | None, addresses: Mapping[str, str]) -> list[str]:
    """Services that `trivium up` started and that listen no more, or not yet."""
    if state is None:
        return []
    if state.owner.handle() is None:
        return [f"the `trivium up` of pair {state.pair!r} (pid {state.owner.pid}) is gone: start it again"]
    return [
        f"{name}: started, but doesn't listen yet: wait, or see its log"
        for name in state.services
        if name not in addresses
    ]


def _down(probes: Sequence[Probe]) -> list[str]:
    problems = []
    for item in probes:
        where = f"{item.service} at {item.address}"
        if item.health == "UNREACHABLE":
            problems.append(
                f"{where} doesn't answer ({item.error}): start the pair with `trivium up`, or see its log"
            )
        elif item.health == "NOT_SERVING":
            reason = f": {item.error}" if item.error else ", it is starting or draining"
            problems.append(f"{where} answers, but isn't serving{reason}")
        elif item.error:
            problems.append(
                f"{where} serves, but doesn't say what it is ({item.error}): is it another service's port?"
            )
    return problems


def _show(
    components: Sequence[Component], probes: Sequence[Probe], state: RunningPair | None, findings: Findings
) -> None:
    installed = Table(title="Installed", title_justify="left")
    for column in ("what", "version", "for"):
        installed.add_column(column, overflow="fold")
    for item in components:
        installed.add_row(item.name, item.version or "[dim]none[/]", item.purpose)
    title = f"Services of pair {state.pair}" if state else "Services"
    services = Table(title=title, title_justify="left")
    is_wide = out.width >= _WIDE
    for column in ("service", "address", "health", "latency"):
        services.add_column(column, no_wrap=is_wide, overflow="fold")
    for column in ("serves", "load") if is_wide else ():
        services.add_column(column)
    for found in probes:
        latency = "" if found.latency_ms is None else f"{found.latency_ms:.1f} ms"
        row = (found.service, found.address, found.health, latency, serves(found.info), load(found.info))
        services.add_row(*map(Text, row[: len(services.columns)]))
    out.print(installed, services)
    for problem in findings.problems:
        out.print(Text(f"✗ {problem}", style="red"), soft_wrap=True)
    for advice in findings.advice:
        out.print(Text(f"! {advice}", style="yellow"), soft_wrap=True)
    if not findings.problems:
        out.print("[green]✓ everything fits[/]")


def _as_dict(
    components: Sequence[Component], probes: Sequence[Probe], state: RunningPair | None, findings: Findings
) -> dict[str, object]:
    return {
        "pair": state.pair if state else None,
        "installed": [dataclasses.asdict(item) for item in components],
        "services": [
            {
                "service": item.service,
                "address": item.address,
                "health": item.health,
                "latency_ms": item.latency_ms,
                "error": item.error,
                "info": _info(item.info),
            }
            for item in probes
        ],
        "problems": list(findings.problems),
        "advice": list(findings.advice),
    }


def _info(info: ServerInfo | None) -> dict[str, object] | None:
    if info is None:
        return None
    if isinstance(info, GatewayInfo):
        return dataclasses.asdict(info)
    return MessageToDict(info, preserving_proto_field_name=True)
