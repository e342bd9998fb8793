"""The messages of a conversation, as OpenAI's API has them, and as orchestrators take them."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, StrictStr, Tag
from trivium.v1 import orchestrator_pb2 as pb

from services.gateway.errors import invalid
from services.gateway.openai.base import RequestPart


class TextPart(RequestPart):
    """A part of a message's content. Others, such as images, aren't served."""

    type: Literal["text"]
    text: StrictStr


class CalledFunction(RequestPart):
    """A function that the assistant called."""

    name: StrictStr = Field(min_length=1)
    arguments: StrictStr = Field(description="A JSON object, written out.")


class CalledTool(RequestPart):
    """A tool that the assistant called."""

    id: StrictStr = ""
    type: Literal["function"] = "function"
    function: CalledFunction


def _content_kind(value: object) -> str | None:
    return "<text>" if isinstance(value, str) else "<parts>" if isinstance(value, list) else None


Content = Annotated[
    Annotated[StrictStr, Tag("<text>")] | Annotated[list[TextPart], Tag("<parts>")],
    Discriminator(
        _content_kind, custom_error_type="content_type", custom_error_message="expected text, or a list of text parts"
    ),
]


class Message(RequestPart):
    """A turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Content = ""
    name: StrictStr = ""
    reasoning_content: StrictStr = Field("", description="What an assistant thought before it said `content`.")
    tool_calls: list[CalledTool] = Field([], description="The tools that an assistant called.")
    tool_call_id: StrictStr = Field("", description="The call that a tool answers.")

    @property
    def text(self) -> str:
        """Its content, whole."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)

    def as_proto(self) -> pb.ChatMessage:
        """As orchestrators take it."""
        calls = [call.model_dump() for call in self.tool_calls]
        return pb.ChatMessage(
            role=self.role,
            content=self.text,
            name=self.name,
            reasoning_content=self.reasoning_content,
            tool_calls_json=json.dumps(calls) if calls else "",
            tool_call_id=self.tool_call_id,
        )


def check_messages(messages: list[Message], raw: list[dict[str, Any]]) -> None:
    """Refuses what a message says and a prompt can't.

    Args:
        messages: As parsed.
        raw: The same as received.

    Raises:
        ApiError: Names the field.
    """
    for index, (message, given) in enumerate(zip(messages, raw, strict=True)):
        where = f"messages[{index}]"
        for name in ("function_call", "audio"):
            if given.get(name) is not None:
                raise invalid(f"{where}.{name}", "not served")
        if message.role != "assistant" and (message.tool_calls or message.reasoning_content):
            name = "tool_calls" if message.tool_calls else "reasoning_content"
            raise invalid(f"{where}.{name}", "only an assistant's message has it")
        if message.role not in ("assistant", "tool") and given.get("content") is None:
            raise invalid(f"{where}.content", "is required")
