"""What the OpenAPI schema says of bodies and errors. The gateway reads bodies by itself, so it has to tell."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from services.gateway.openai.base import NULL, RequestPart
from services.gateway.openai.chat import ChatRequest
from services.gateway.openai.common import HEADERS
from services.gateway.openai.completions import CompletionRequest
from services.gateway.streaming.sse import EVENT_ID, LAST_EVENT_ID

_REF = "#/components/schemas/{model}"
_NULLABLE_TEXT = {"anyOf": [{"type": "string"}, {"type": "null"}]}
_ERROR = {
    "title": "Error",
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": _NULLABLE_TEXT,
                "code": _NULLABLE_TEXT,
            },
        }
    },
}
_EVENT_ID = {"type": "string", "pattern": f"^{EVENT_ID.pattern}$"}
_EVENT = {
    "type": "object",
    "required": ["data"],
    "properties": {
        "data": {"type": "string", "description": "JSON: a chunk, or an error; the last event has [DONE]"},
        "id": _EVENT_ID,
    },
}
_REASONS = {
    400: "A field can't be used; `param` names it",
    401: "The key isn't known",
    403: "The key doesn't allow it",
    404: "There is no such model",
    408: "The body took too long",
    409: "The stream that is to be gone on with belongs to another request",
    413: "The body is too large",
    415: "The body isn't JSON",
    429: "Too much runs or waits; `Retry-After` says when to come again",
    499: "Somebody cancelled the request",
    500: "A defect of the server",
    501: "The orchestrator doesn't know how",
    503: "Nothing answers now; `Retry-After` says when to come again",
    504: "The answer took too long",
}
_COMPLETION_STATUSES = tuple(_REASONS)


def error_docs(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Which errors a path has."""
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {status: {"description": _REASONS[status], "content": content} for status in statuses}


def completion_docs(request_type: type[RequestPart], answer: str) -> dict[str, Any]:
    """What a path takes and gives that answers with completions.

    Args:
        request_type: Its body.
        answer: What its answers are called.
    """
    body = {"$ref": _REF.format(model=request_type.__name__)}
    whole = {
        "type": "object",
        "required": ["id", "object", "created", "model", "choices", "usage"],
        "properties": {"object": {"const": answer}, "choices": {"type": "array"}, "usage": {"type": "object"}},
    }
    fields = request_type.model_json_schema(ref_template=_REF)["properties"]
    headers = {header: _without_null(fields[name]) for header, (name, _) in HEADERS.items()}
    headers[LAST_EVENT_ID] = _EVENT_ID
    return {
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
        "parameters": [
            {"name": name, "in": "header", "required": False, "schema": schema} for name, schema in headers.items()
        ],
        "responses": {
            "200": {
                "description": "The answer, whole or as a stream of events that ends with [DONE]",
                "content": {
                    "application/json": {"schema": whole},
                    "text/event-stream": {"itemSchema": _EVENT},
                },
            },
            **{str(status): docs for status, docs in error_docs(*_COMPLETION_STATUSES).items()},
        },
    }


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """What a header may hold that stands for a field: it can't say null."""
    [kind] = [each for each in schema["anyOf"] if each != NULL]
    return dict(kind)


def describe(app: FastAPI) -> None:
    """Has the app tell all of its schema."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
            _, found = models_json_schema(
                [(ChatRequest, "validation"), (CompletionRequest, "validation")], ref_template=_REF
            )
            components = schema.setdefault("components", {}).setdefault("schemas", {})
            components.pop("HTTPValidationError", None)
            components.pop("ValidationError", None)
            components.update(found["$defs"], Error=_ERROR)
            for path in schema["paths"].values():
                for operation in path.values():
                    operation["responses"].pop("422", None)
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
