"""Reads conversations: who says what, which tools there are, and what else the chat template is given.

Owns the checks of `ChatMessages`. What is cheap is checked at once; JSON is read when the prompt is.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

from trivium.v1 import orchestrator_pb2

from services.common.errors import InvalidRequest
from services.common.text.chat_template import ChatTemplate
from services.common.text.literal import Shield

MAX_CHAT_MESSAGES = 10_000
CHAT_ROLES = ("system", "developer", "user", "assistant", "tool")
MAX_JSON_DEPTH = 64


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One message, as `orchestrator_pb2.ChatMessage` has it."""

    role: str
    content: str
    name: str = ""
    reasoning_content: str = ""
    tool_calls_json: str = ""
    tool_call_id: str = ""


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation, as `orchestrator_pb2.ChatMessages` has it."""

    messages: tuple[ChatMessage, ...]
    tools_json: str = ""
    template_kwargs_json: str = ""
    continue_final_message: bool = False

    @property
    def texts(self) -> list[str]:
        """All that a template may write."""
        texts = [self.tools_json, self.template_kwargs_json]
        for message in self.messages:
            texts += message.content, message.name, message.reasoning_content
            texts += message.tool_calls_json, message.tool_call_id
        return texts


@dataclass(frozen=True, slots=True)
class Conversation:
    """What a chat template is given, with special tokens covered."""

    messages: list[dict[str, Any]]
    options: dict[str, Any]


def checked_chat(chat: orchestrator_pb2.ChatMessages, template: ChatTemplate) -> Chat:
    """Checks what needs no reading of JSON.

    Raises:
        InvalidRequest: It can't be rendered; the message begins with the field's name.
    """
    if not template.exists:
        raise InvalidRequest("chat: the tokenizer has no chat template")
    if not chat.messages:
        raise InvalidRequest("chat.messages: the prompt is empty")
    if len(chat.messages) > MAX_CHAT_MESSAGES:
        raise InvalidRequest(
            f"chat.messages: there are {len(chat.messages)}, at most {MAX_CHAT_MESSAGES} are allowed"
        )
    for i, message in enumerate(chat.messages):
        _check_message(f"chat.messages[{i}]", message, template)
    if chat.tools_json and not template.takes_tools:
        raise InvalidRequest("chat.tools_json: the chat template takes no tools")
    if chat.continue_final_message and (chat.messages[-1].role != "assistant" or chat.messages[-1].tool_calls_json):
        raise InvalidRequest(
            "chat.continue_final_message: the last message must be the assistant's, without tool calls"
        )
    return Chat(
        tuple(
            ChatMessage(
                message.role,
                message.content,
                message.name,
                message.reasoning_content,
                message.tool_calls_json,
                message.tool_call_id,
            )
            for message in chat.messages
        ),
        chat.tools_json,
        chat.template_kwargs_json,
        chat.continue_final_message,
    )


def conversation(chat: Chat, template: ChatTemplate, shield: Shield) -> Conversation:
    """Reads what a checked chat holds as JSON, and puts it as the template takes it.

    Raises:
        InvalidRequest: JSON can't be read, or isn't what it should be; the message begins with the field's name.
    """
    messages = [_message(i, message, template, shield) for i, message in enumerate(chat.messages)]
    return Conversation(
        messages,
        {
            "tools": shield.cover_value(_functions("chat.tools_json", chat.tools_json)),
            "kwargs": _template_kwargs(chat.template_kwargs_json, template, shield),
            "continue_final_message": chat.continue_final_message,
        },
    )


def _check_message(field: str, message: orchestrator_pb2.ChatMessage, template: ChatTemplate) -> None:
    role = message.role
    if role not in CHAT_ROLES:
        raise InvalidRequest(f"{field}.role: expected one of {', '.join(CHAT_ROLES)}, got {role[:32]!r}")
    if role == "tool" and not template.knows_tool_role:
        raise InvalidRequest(f"{field}.role: the chat template takes no messages of tools")
    if role == "user" and not message.content:
        raise InvalidRequest(f"{field}.content: the prompt is empty")
    if role != "assistant":
        for name in ("reasoning_content", "tool_calls_json"):
            if getattr(message, name):
                raise InvalidRequest(f"{field}.{name}: only a message of the assistant has one")
    if role != "tool" and message.tool_call_id:
        raise InvalidRequest(f"{field}.tool_call_id: only a message of a tool has one")
    if message.tool_calls_json and not template.takes_tool_calls:
        raise InvalidRequest(f"{field}.tool_calls_json: the chat template takes no tool calls")


def _message(index: int, message: ChatMessage, template: ChatTemplate, shield: Shield) -> dict[str, Any]:
    role = "system" if message.role == "developer" and not template.knows_developer else message.role
    made: dict[str, Any] = {"role": role, "content": shield.cover(message.content)}
    for name in ("name", "reasoning_content", "tool_call_id"):
        if text := getattr(message, name):
            made[name] = shield.cover(text)
    calls = _tool_calls(f"chat.messages[{index}].tool_calls_json", message.tool_calls_json)
    if calls:
        made["tool_calls"] = shield.cover_value(calls)
    return made


def _tool_calls(field: str, text: str) -> list[dict[str, Any]]:
    calls = _functions(field, text)
    for i, call in enumerate(calls):
        function = call["function"]
        arguments = function.get("arguments", {})
        if isinstance(arguments, str):
            arguments = _decoded(arguments)
        elif not isinstance(arguments, dict):
            raise InvalidRequest(f"{field}: [{i}].function.arguments must be a string or an object")
        call["function"] = function | {"arguments": arguments}
    return calls


def _decoded(arguments: str) -> dict[str, Any] | str:
    """The object that a model's arguments stand for; what it wrote where that is none."""
    try:
        value = _json("arguments", arguments)
    except InvalidRequest:
        return arguments
    return value if isinstance(value, dict) else arguments


def _functions(field: str, text: str) -> list[dict[str, Any]]:
    """Reads an array of objects, each of which has a function with a name."""
    if not text:
        return []
    items = _json(field, text)
    if not isinstance(items, list):
        raise InvalidRequest(f"{field}: must be an array")
    for i, item in enumerate(items):
        if not isinstance(item, dict):
            raise InvalidRequest(f"{field}: [{i}] must be an object")
        if item.get("type", "function") != "function":
            raise InvalidRequest(f"{field}: [{i}].type must be 'function'")
        function = item.get("function")
        if not isinstance(function, dict):
            raise InvalidRequest(f"{field}: [{i}].function must be an object")
        if not (isinstance(function.get("name"), str) and function["name"]):
            raise InvalidRequest(f"{field}: [{i}].function.name must be a string")
    return items


def _template_kwargs(text: str, template: ChatTemplate, shield: Shield) -> dict[str, Any]:
    field = "chat.template_kwargs_json"
    if not text:
        return {}
    kwargs = _json(field, text)
    if not isinstance(kwargs, dict):
        raise InvalidRequest(f"{field}: must be an object")
    for name in kwargs:
        if name in template.reserved:
            raise InvalidRequest(f"{field}: {name!r} can't be given to the chat template this way")
    return {name: shield.cover_value(value) for name, value in kwargs.items()}


def _json(field: str, text: str) -> Any:
    try:
        value = json.loads(text, parse_constant=_refused_constant)
        _check_value(value, MAX_JSON_DEPTH)
    except RecursionError:
        raise InvalidRequest(f"{field}: nested deeper than {MAX_JSON_DEPTH} levels") from None
    except ValueError as error:
        raise InvalidRequest(f"{field}: not valid JSON: {error}") from None
    return value


def _refused_constant(constant: str) -> None:
    raise ValueError(f"{constant} is no number")


def _check_value(value: Any, levels: int) -> None:
    if isinstance(value, str):
        # A lone surrogate is refused.
        value.encode()
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError("a number is too large")
    elif isinstance(value, dict | list):
        if not levels:
            raise RecursionError
        for item in [*value, *value.values()] if isinstance(value, dict) else value:
            _check_value(item, levels - 1)
