"""Reads the requests of /v1/chat/completions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, StrictBool, StrictStr

from services.client import chat_request
from services.gateway.errors import invalid
from services.gateway.openai.base import Whole, parse
from services.gateway.openai.common import CommonRequest, Identity, check_common, options
from services.gateway.openai.messages import Message, check_messages
from services.gateway.openai.plan import Limits, Plan
from services.gateway.openai.policy import check_fields, refusal
from services.gateway.openai.tools import Tool, ToolChoice, chosen_tools


class ChatRequest(CommonRequest):
    """A conversation to go on with."""

    messages: list[Message] = Field(min_length=1, max_length=10_000)
    max_completion_tokens: Whole | None = Field(None, ge=1, description="The same as max_tokens.")
    tools: list[Tool] = Field([], description="Refused where the pair's chat template takes none.")
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: StrictBool = True
    chat_template_kwargs: dict[StrictStr, Any] = Field({}, description='Such as {"enable_thinking": false}.')
    add_generation_prompt: StrictBool | None = None
    continue_final_message: StrictBool = Field(False, description="Goes on in the last message.")
    separate_reasoning: StrictBool = Field(True, description="Splits what is thought into reasoning_content.")

    @property
    def most_tokens(self) -> int | None:
        """Tokens to write at most."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens


_READ_RAW = {"tool_choice"}


def plan_chat(body: Mapping[str, Any], request_id: str, limits: Limits) -> Plan:
    """Turns a request into what is to be asked.

    Args:
        body: As received.
        request_id: Names the request.
        limits: What this gateway allows.

    Raises:
        ApiError: It isn't served; names the field.
    """
    check_fields(body, ChatRequest.model_fields)
    request = parse(ChatRequest, {name: value for name, value in body.items() if name not in _READ_RAW})
    check_common(request, limits.max_n)
    _check_lengths(request)
    check_messages(request.messages, body["messages"])
    _check_continuation(request)
    shows_tools = chosen_tools(request.tools, body.get("tool_choice"), request.parallel_tool_calls)
    messages = [message.as_proto() for message in request.messages]
    identity = Identity(request_id, request.seed)
    requests = [
        chat_request(
            messages,
            options(request, identity, index, index, request.n, limits.default_temperature),
            tools=body["tools"] if shows_tools else (),
            template_kwargs=request.chat_template_kwargs,
            continue_final_message=request.continue_final_message,
        )
        for index in range(request.n)
    ]
    return Plan(
        request=request,
        request_id=request_id,
        requests=requests,
        prompt_params=["messages"] * request.n,
        is_chat=True,
        shows_tools=shows_tools,
        separates_reasoning=request.separate_reasoning,
    )


def _check_lengths(request: ChatRequest) -> None:
    if None not in (request.max_tokens, request.max_completion_tokens) and (
        request.max_tokens != request.max_completion_tokens
    ):
        raise invalid("max_tokens", "differs from max_completion_tokens, which means the same")


def _check_continuation(request: ChatRequest) -> None:
    if not request.continue_final_message:
        if request.add_generation_prompt is False:
            raise refusal("add_generation_prompt", "without it only the last message can be gone on with")
        return
    if request.add_generation_prompt:
        raise invalid("continue_final_message", "send add_generation_prompt: false with it")
    if request.messages[-1].role != "assistant":
        raise invalid("continue_final_message", "the last message isn't the assistant's")
