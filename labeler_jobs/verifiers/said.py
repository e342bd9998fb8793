"""Reads what a verifying model says, and stops a run whose verifier says nothing that can be read."""

from __future__ import annotations

import json
import threading
from typing import Any

from labeler_jobs.verifiers.verifier import VerifierUnreachable

_READ_CHARS = 4000
"""How much of an answer is looked through for a verdict, from its end: endless nesting must not take endless time."""
_THINK_START, _THINK_END = "<think>", "</think>"
_SHOWN_CHARS = 200
NUM_HOPELESS = 8
"""A verifier whose first so many answers can't be read is the wrong one, or asked wrongly."""


def read_boolean(answer: str, name: str) -> bool | None:
    """Reads a verdict.

    Args:
        answer: What the model wrote. Thoughts in `<think>` and text around the JSON object are skipped; of several
            objects that state a verdict the last one counts.
        name: The object's field.

    Returns:
        The verdict; None where there is none.
    """
    if _THINK_END in answer:
        answer = answer.rpartition(_THINK_END)[2]
    elif _THINK_START in answer:
        return None
    found = [item[name] for item in _json_objects(answer[-_READ_CHARS:]) if isinstance(item.get(name), bool)]
    return found[-1] if found else None


class Readability:
    """Counts answers; safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._num_answers = 0
        self._has_readable = False

    @property
    def is_proven(self) -> bool:
        """Whether an answer could be read."""
        return self._has_readable

    def note(self, answer: str, *, is_readable: bool) -> None:
        """Counts an answer.

        Raises:
            VerifierUnreachable: It is the last of `NUM_HOPELESS`, none of which could be read.
        """
        with self._lock:
            self._num_answers += 1
            self._has_readable = self._has_readable or is_readable
            if not self._has_readable and self._num_answers >= NUM_HOPELESS:
                shown = " ".join(answer.split())[-_SHOWN_CHARS:]
                raise VerifierUnreachable(
                    f"none of the verifier's first {self._num_answers} verdicts can be read; the last one ends with "
                    f"{shown!r}"
                )


def _json_objects(text: str) -> list[dict[str, Any]]:
    decoder = json.JSONDecoder()
    found: list[dict[str, Any]] = []
    at = text.find("{")
    while at >= 0:
        try:
            item, at = decoder.raw_decode(text, at)
            found.append(item)
        except (ValueError, RecursionError):
            at += 1
        at = text.find("{", at)
    return found
