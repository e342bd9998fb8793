"""Reads what a service wrote to its log.

Owns which of its lines tells of trouble. Services log one JSON object a line; what a crash leaves there is no JSON.
"""

from __future__ import annotations

import json
from typing import Any

_SERIOUS = ("WARNING", "ERROR", "CRITICAL")


def last_serious(text: str) -> str:
    """The last line of a log that tells of trouble; of other text, its last line. Empty where there is none."""
    last = ""
    for line in text.splitlines():
        record = _record(line)
        if record is None:
            last = line.strip() or last
        elif record.get("level") in _SERIOUS:
            last = str(record.get("message", ""))
    return one_line(last)


def one_line(text: str) -> str:
    """A text with its line breaks as spaces."""
    return " ".join(text.split())


def _record(line: str) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except (json.JSONDecodeError, RecursionError):
        return None
    return record if isinstance(record, dict) else None
