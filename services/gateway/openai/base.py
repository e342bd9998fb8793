"""What all parts of OpenAI's requests have in common: null means absent, and nothing is guessed from another type."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictFloat,
    StrictInt,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails

from services.gateway.errors import ApiError, invalid

Number = Annotated[StrictFloat, Field(allow_inf_nan=False)]
"""A number; whole ones count."""


def _whole(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = Annotated[StrictInt, BeforeValidator(_whole)]
"""A whole number. JSON has numbers of one kind: 1.0 is one."""


def whole_numbers(values: object) -> object:
    """The same as `Whole` for lists, which may be long."""
    if not isinstance(values, list) or float not in set(map(type, values)):
        return values
    return [_whole(each) for each in values]


NULL = {"type": "null"}
"""The schema of null."""

_MESSAGES = {
    "missing": "is required",
    "model_type": "expected an object",
    "dict_type": "expected an object",
    "too_short": "must not be empty",
    "string_too_short": "must not be empty",
}


def _allow_null(schema: dict[str, Any]) -> None:
    required = schema.get("required", [])
    for name, found in schema.get("properties", {}).items():
        if name not in required and NULL not in found.get("anyOf", ()):
            outside = {key: found.pop(key) for key in ("title", "description", "default") if key in found}
            schema["properties"][name] = {"anyOf": [found, NULL], **outside}


class RequestPart(BaseModel):
    """An object of a request."""

    model_config = ConfigDict(
        extra="ignore", frozen=True, hide_input_in_errors=True, json_schema_extra=_allow_null, protected_namespaces=()
    )

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, value: object) -> object:
        if isinstance(value, dict):
            return {name: part for name, part in value.items() if part is not None}
        return value


PartT = TypeVar("PartT", bound=RequestPart)


def parse(part_type: type[PartT], body: Mapping[str, Any]) -> PartT:
    """Reads an object of a request.

    Raises:
        ApiError: A field can't be used; names the first.
    """
    try:
        return part_type.model_validate(dict(body))
    except ValidationError as error:
        raise _described(error.errors(include_url=False, include_input=False)[0]) from None


def _described(problem: ErrorDetails) -> ApiError:
    path = ""
    for step in problem["loc"]:
        if isinstance(step, int):
            path += f"[{step}]"
        # Tags of alternatives have no name in the request.
        elif not step.startswith("<"):
            path += f".{step}" if path else step
    message = _MESSAGES.get(problem["type"], problem["msg"].removeprefix("Value error, "))
    return invalid(path, message[:1].lower() + message[1:])
