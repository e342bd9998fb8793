"""The tools of a request, and whether the model may call them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StrictBool, StrictStr

from services.gateway.openai.base import RequestPart
from services.gateway.openai.policy import refusal

ToolName = Annotated[StrictStr, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]


class Function(RequestPart):
    """A function that the model may call."""

    name: ToolName
    description: StrictStr = ""
    parameters: dict[StrictStr, Any] = Field({}, description="A JSON schema.")
    strict: StrictBool = Field(False, description="Only false is served.")


class Tool(RequestPart):
    """A tool that the model may call."""

    type: Literal["function"]
    function: Function


ToolChoice = Literal["none", "auto"]


def chosen_tools(tools: list[Tool], choice: object, parallel: bool) -> bool:
    """Whether the model is shown the tools.

    Args:
        tools: Of the request.
        choice: Its `tool_choice`; None where there is none.
        parallel: Its `parallel_tool_calls`.

    Raises:
        ApiError: The choice can't be held.
    """
    if choice not in (None, "none", "auto"):
        raise refusal("tool_choice", "a call can't be forced; send none or auto")
    for index, tool in enumerate(tools):
        if tool.function.strict:
            raise refusal(f"tools[{index}].function.strict", "arguments can't be held to a schema")
    if not tools or choice == "none":
        return False
    if not parallel:
        raise refusal("parallel_tool_calls", "the number of calls can't be held to one")
    return True
