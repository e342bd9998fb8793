"""What `trivium rules list` does."""

from __future__ import annotations

import json
import math
from typing import Any

from rich.markup import escape
from rich.table import Table

from services.cli.console import out
from services.rules.registry import Rules
from services.rules.rule import Parameter, Rule


def run_list(*, as_json: bool) -> None:
    """Prints the installed rules, and those that can't be used."""
    rules = Rules.installed()
    if as_json:
        found = {"rules": [_as_json(rule) for rule in rules], "unusable": dict(rules.unusable)}
        out.print_json(json.dumps(found))
        return
    out.print(_table(rules))
    for name, reason in rules.unusable.items():
        out.print(f"[red]{escape(name)} can't be used:[/] {escape(reason)}", soft_wrap=True)


def _table(rules: Rules) -> Table:
    table = Table()
    for column in ("rule", "version", "scores by", "parameters"):
        table.add_column(column, overflow="fold")
    for rule in rules:
        parameters = "\n".join(_described(name, parameter) for name, parameter in rule.parameters.items())
        table.add_row(*map(escape, (rule.name, rule.version, rule.evidence.name.lower(), parameters)))
    return table


def _described(name: str, parameter: Parameter) -> str:
    least, most = f"{parameter.least:.12g}", f"{parameter.most:.12g}"
    limits = f"{least} to {most}" if math.isfinite(parameter.most) else f"at least {least}"
    kind = ", whole" if parameter.whole else ""
    default = "" if parameter.default is None else f", default {parameter.default:g}"
    return f"{name}, {limits}{kind}{default}: {parameter.description}"


def _as_json(rule: Rule) -> dict[str, Any]:
    return {
        "name": rule.name,
        "version": rule.version,
        "evidence": rule.evidence.name.lower(),
        "needs_llm": rule.needs_llm,
        "parameters": {
            name: {
                "description": parameter.description,
                "default": parameter.default,
                "least": _finite(parameter.least),
                "most": _finite(parameter.most),
                "whole": parameter.whole,
            }
            for name, parameter in rule.parameters.items()
        },
    }


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None
