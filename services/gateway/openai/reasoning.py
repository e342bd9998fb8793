"""Splits what a model thought from what it says.

Owns the search for the tags. Whatever the pieces that text arrives in, the parts and the tags join to the same text,
and what has come out after a text depends on that text alone.
"""

from __future__ import annotations

from typing import NamedTuple

from services.common.text.stop_strings import StopMatcher

OPEN = "<think>"
CLOSE = "</think>"


class Parts(NamedTuple):
    """What became certain of each."""

    reasoning: str = ""
    content: str = ""


class ReasoningSplitter:
    """Splits one answer.

    Args:
        is_open: The prompt ends inside of a thinking block. Otherwise the answer has one if it begins with the tag.
    """

    def __init__(self, *, is_open: bool) -> None:
        self._is_open = is_open
        self._is_decided = is_open
        self._held = ""
        self._close = StopMatcher([CLOSE])

    def feed(self, text: str) -> Parts:
        """Takes the next piece."""
        text = self._held + text
        if not self._is_decided:
            if len(text) < len(OPEN) and OPEN.startswith(text):
                self._held = text
                return Parts()
            self._is_decided = True
            self._held = ""
            self._is_open = text.startswith(OPEN)
            if self._is_open:
                text = text.removeprefix(OPEN)
        if not self._is_open:
            return Parts(content=text)
        return self._inside(text)

    def finish(self) -> Parts:
        """What was held back. Call it once, after the last piece."""
        held, self._held = self._held, ""
        return Parts(reasoning=held) if self._is_open else Parts(content=held)

    def _inside(self, text: str) -> Parts:
        found = self._close.search(text[len(self._held) :])
        if found is None:
            num_certain = len(text) - self._close.num_held
            self._held = text[num_certain:]
            return Parts(reasoning=text[:num_certain])
        end = len(self._held) + found[0]
        self._held = ""
        self._is_open = False
        return Parts(text[: end - len(CLOSE)], text[end:])
