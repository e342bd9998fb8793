"""Writes answers and chunks in the two shapes of OpenAI's API."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from pydantic_core import to_json

from services.gateway.openai.choice import Choice, Delta

Json = dict[str, Any]


class Shape(Protocol):
    """How choices are written."""

    prefix: str
    """Of the answer's id."""
    object: str
    """What an answer is called."""
    chunk_object: str
    """What a chunk is called."""

    def opening(self, index: int) -> Json | None:
        """The first chunk's choice, before there is text; None where there is none."""

    def delta(self, index: int, delta: Delta) -> Json:
        """A chunk's choice with text."""

    def ending(self, index: int, reason: str) -> Json:
        """The last chunk's choice."""

    def whole(self, choice: Choice) -> Json:
        """An answer's choice."""


class ChatShape:
    """Of /v1/chat/completions."""

    prefix = "chatcmpl-"
    object = "chat.completion"
    chunk_object = "chat.completion.chunk"

    def opening(self, index: int) -> Json | None:
        """Says whose the message is."""
        return self._chunk(index, {"role": "assistant", "content": ""})

    def delta(self, index: int, delta: Delta) -> Json:
        """Says what was added."""
        fields: Json = {}
        if delta.reasoning:
            fields["reasoning_content"] = delta.reasoning
        if delta.content:
            fields["content"] = delta.content
        if delta.calls:
            fields["tool_calls"] = delta.calls
        return self._chunk(index, fields) | ({"tokens": delta.tokens} if delta.tokens else {})

    def ending(self, index: int, reason: str) -> Json:
        """Says why it ended."""
        return self._chunk(index, {}, reason)

    def whole(self, choice: Choice) -> Json:
        """Has the message."""
        message: Json = {
            "role": "assistant",
            "content": None if choice.calls and not choice.content else choice.content,
            "refusal": None,
        }
        if choice.reasoning:
            message["reasoning_content"] = choice.reasoning
        if choice.calls:
            message["tool_calls"] = choice.calls
        return {
            "index": choice.index,
            "message": message,
            "logprobs": None,
            "finish_reason": choice.finish_reason,
        } | ({"tokens": choice.tokens} if choice.tokens else {})

    def _chunk(self, index: int, fields: Json, reason: str | None = None) -> Json:
        return {"index": index, "delta": fields, "logprobs": None, "finish_reason": reason}


class TextShape:
    """Of /v1/completions."""

    prefix = "cmpl-"
    object = "text_completion"
    chunk_object = "text_completion"

    def opening(self, index: int) -> Json | None:
        """There is none."""
        return None

    def delta(self, index: int, delta: Delta) -> Json:
        """Says what was added."""
        return self._choice(index, delta.content) | ({"tokens": delta.tokens} if delta.tokens else {})

    def ending(self, index: int, reason: str) -> Json:
        """Says why it ended."""
        return self._choice(index, "", reason)

    def whole(self, choice: Choice) -> Json:
        """Has the text."""
        return self._choice(choice.index, choice.content, choice.finish_reason) | (
            {"tokens": choice.tokens} if choice.tokens else {}
        )

    def _choice(self, index: int, text: str, reason: str | None = None) -> Json:
        return {"index": index, "text": text, "logprobs": None, "finish_reason": reason}


CHAT, TEXT = ChatShape(), TextShape()


class Envelope:
    """What is around the choices: the same in all chunks of a request.

    Args:
        shape: How choices are written.
        request_id: Names the request.
        created: When it came, in seconds since 1970.
        model: What answers.
    """

    def __init__(self, shape: Shape, request_id: str, created: int, model: str) -> None:
        self._shared = {"id": f"{shape.prefix}{request_id}", "created": created, "model": model}
        self._shape = shape
        self._chunk_head = to_json({**self._shared, "object": shape.chunk_object}).removesuffix(b"}")

    def chunk(self, rest: Json) -> bytes:
        """A chunk of a stream, in JSON.

        Args:
            rest: Its choices, and what differs between chunks beside them.
        """
        return b"%b,%b" % (self._chunk_head, to_json(rest).removeprefix(b"{"))

    def answer(self, choices: Sequence[Json], usage: Json) -> Json:
        """A whole answer."""
        return {**self._shared, "object": self._shape.object, "choices": choices, "usage": usage}
