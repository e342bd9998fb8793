"""Finds the tools that a model calls in what it says.

Owns the form of Hermes and Qwen: <tool_call>{"name": ..., "arguments": {...}}</tool_call>. What looks like one and
can't be read stays text.
"""

from __future__ import annotations

import json
from typing import NamedTuple

from services.common.text.stop_strings import StopMatcher

OPEN = "<tool_call>"
CLOSE = "</tool_call>"


class ToolCall(NamedTuple):
    """A call.

    Args:
        name: Of the tool.
        arguments: A JSON object.
    """

    name: str
    arguments: str


class Found(NamedTuple):
    """What became certain: text, and calls after it."""

    text: str = ""
    calls: tuple[ToolCall, ...] = ()


class ToolCallParser:
    """Reads one answer. The space around calls belongs to them."""

    def __init__(self) -> None:
        self._has_calls = False
        self._space = ""
        self._inside: str | None = None
        self._held = ""
        self._open = StopMatcher([OPEN])
        self._close = StopMatcher([CLOSE])

    def feed(self, text: str) -> Found:
        """Takes the next piece."""
        texts: list[str] = []
        calls: list[ToolCall] = []
        while text:
            text = self._open_tag(text, texts) if self._inside is None else self._close_tag(text, texts, calls)
        return Found("".join(texts), tuple(calls))

    def finish(self) -> Found:
        """What was held back. Call it once, after the last piece."""
        texts: list[str] = []
        if self._inside is not None:
            # The end of the answer ends a call as well.
            if call := parse_call(self._inside):
                self._has_calls = True
                return Found("", (call,))
            self._say(OPEN + self._inside, texts)
        elif self._held:
            self._say(self._held, texts)
        if not self._has_calls:
            texts.append(self._space)
        return Found("".join(texts))

    def _open_tag(self, text: str, texts: list[str]) -> str:
        """Takes text up to the next tag. Returns what is left."""
        whole = self._held + text
        found = self._open.search(text)
        if found is None:
            num_certain = len(whole) - self._open.num_held
            self._say(whole[:num_certain], texts)
            self._held = whole[num_certain:]
            return ""
        end = len(self._held) + found[0]
        self._say(whole[: end - len(OPEN)], texts)
        self._held, self._inside = "", ""
        return whole[end:]

    def _close_tag(self, text: str, texts: list[str], calls: list[ToolCall]) -> str:
        """Takes a call up to its end. Returns what is left."""
        assert self._inside is not None
        found = self._close.search(text)
        if found is None:
            self._inside += text
            return ""
        end = found[0]
        whole = self._inside + text[:end]
        self._inside = None
        if call := parse_call(whole.removesuffix(CLOSE)):
            self._has_calls = True
            self._space = ""
            calls.append(call)
        else:
            self._say(OPEN + whole, texts)
        return text[end:]

    def _say(self, text: str, texts: list[str]) -> None:
        """Gives out all but the space at the end, which a call may follow."""
        text = self._space + text
        certain = text.rstrip()
        self._space = text[len(certain) :]
        texts.append(certain)


def parse_call(text: str) -> ToolCall | None:
    """Reads what stands between the tags; None if that is no call."""
    try:
        value = json.loads(text)
        name, arguments = value["name"], value.get("arguments", {})
        if isinstance(arguments, str):
            arguments = json.loads(arguments)
        if not isinstance(name, str) or not name or not isinstance(arguments, dict):
            return None
        written = json.dumps(arguments, ensure_ascii=False, allow_nan=False)
        # Half of a surrogate pair can't be sent, and is no text.
        (name + written).encode()
        return ToolCall(name, written)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
