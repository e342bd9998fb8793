"""What a caller is told when a request isn't served.

Owns the one shape of errors and the one table from gRPC codes to HTTP statuses.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass

import grpc
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from services.client import CallFailed

logger = logging.getLogger(__name__)

_DEFAULT_RETRY_S = 1.0
_LINGER_S = 2.0
_SERVER_ERROR = "server_error"


@dataclass(frozen=True, slots=True)
class Kind:
    """What an error is, for programs."""

    status: int
    type: str
    code: str | None = None


INVALID = Kind(400, "invalid_request_error")
UNSUPPORTED = Kind(400, "invalid_request_error", "unsupported_parameter")
MODEL_NOT_FOUND = Kind(404, "invalid_request_error", "model_not_found")
UNAVAILABLE = Kind(503, _SERVER_ERROR, "unavailable")
INTERNAL = Kind(500, _SERVER_ERROR)

BY_STATUS: Mapping[int, Kind] = {
    404: Kind(404, "invalid_request_error", "not_found"),
    405: Kind(405, "invalid_request_error", "method_not_allowed"),
    408: Kind(408, "invalid_request_error", "request_timeout"),
    413: Kind(413, "invalid_request_error", "body_too_large"),
    415: Kind(415, "invalid_request_error", "unsupported_media_type"),
}
"""Refusals that HTTP alone gives reason for."""

BY_CODE: Mapping[grpc.StatusCode, Kind] = {
    grpc.StatusCode.INVALID_ARGUMENT: INVALID,
    grpc.StatusCode.FAILED_PRECONDITION: INVALID,
    grpc.StatusCode.OUT_OF_RANGE: Kind(400, "invalid_request_error", "context_length_exceeded"),
    grpc.StatusCode.UNAUTHENTICATED: Kind(401, "authentication_error", "invalid_api_key"),
    grpc.StatusCode.PERMISSION_DENIED: Kind(403, "permission_error"),
    grpc.StatusCode.NOT_FOUND: BY_STATUS[404],
    grpc.StatusCode.ABORTED: Kind(409, "conflict_error"),
    grpc.StatusCode.ALREADY_EXISTS: Kind(409, "conflict_error"),
    grpc.StatusCode.RESOURCE_EXHAUSTED: Kind(429, "rate_limit_error", "rate_limit_exceeded"),
    grpc.StatusCode.CANCELLED: Kind(499, _SERVER_ERROR, "cancelled"),
    grpc.StatusCode.UNIMPLEMENTED: Kind(501, _SERVER_ERROR, "unimplemented"),
    grpc.StatusCode.UNAVAILABLE: UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED: Kind(504, _SERVER_ERROR, "deadline_exceeded"),
}
"""Every other code is `INTERNAL`."""

_PATH = re.compile(r"([a-z_]+(?:\[\d+\])?(?:\.[a-z_]+(?:\[\d+\])?)*): ")
_RENAMED = (
    ("chat.messages", "messages"),
    ("chat.tools_json", "tools"),
    ("chat.template_kwargs_json", "chat_template_kwargs"),
    ("chat.continue_final_message", "continue_final_message"),
    ("sampling.", ""),
    ("chat", "messages"),
    ("max_new_tokens", "max_tokens"),
    ("request_id", "Last-Event-ID"),
    ("resume_from", "Last-Event-ID"),
)
_PROMPTS = ("text", "token_ids", "prompt")


class ApiError(Exception):
    """A request isn't served.

    Args:
        kind: What happened.
        message: The same for people.
        param: The field or header that is to change.
        retry_after_s: Seconds after which the same request may succeed.
        closes: Whether the connection can't be used again, since the request wasn't read to its end.
    """

    def __init__(
        self,
        kind: Kind,
        message: str,
        param: str | None = None,
        *,
        retry_after_s: float | None = None,
        closes: bool = False,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s
        self.closes = closes

    def body(self) -> dict[str, object]:
        """As OpenAI has it."""
        return {
            "error": {"message": self.message, "type": self.kind.type, "param": self.param, "code": self.kind.code}
        }

    def headers(self) -> dict[str, str]:
        """What belongs to it beside the body."""
        headers = {}
        if self.kind.status in (429, 503):
            # A whole number, as HTTP has it; 0 would be no pause at all.
            headers["Retry-After"] = str(max(1, round(self.retry_after_s or _DEFAULT_RETRY_S)))
        if self.closes:
            headers["Connection"] = "close"
        return headers

    def response(self) -> JSONResponse:
        """The whole response."""
        kind = _LastResponse if self.closes else JSONResponse
        return kind(self.body(), self.kind.status, self.headers())


class _LastResponse(JSONResponse):
    """The last response of a connection on which the client may still be sending.

    Closed at once, the connection would be reset, and the client might never read why.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LINGER_S):
                while (await receive()).get("more_body", False):
                    pass
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def bare_refusal(message: str) -> bytes:
    """A whole HTTP response to what is no request that could be answered otherwise; the connection is closed."""
    body = json.dumps(ApiError(INVALID, message).body()).encode()
    head = (
        "HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + body


def invalid(param: str | None, message: str) -> ApiError:
    """A field that can't be used as it is."""
    return ApiError(INVALID, f"{param}: {message}" if param else message, param)


def of_call(failure: CallFailed, prompt_param: str) -> ApiError:
    """What a failed call of an orchestrator is to the caller.

    Args:
        failure: As the client raised it.
        prompt_param: The field that the request's prompt came from.
    """
    kind = BY_CODE.get(failure.code, INTERNAL)
    if kind is INTERNAL:
        logger.error("a call failed: %s", failure)
        return ApiError(INTERNAL, "internal error")
    # Where orchestrators are is nobody's business.
    param, message = None, failure.message if failure.kind != "Unreachable" else "no orchestrator answers now"
    if kind.status in (400, 403) and (found := _PATH.match(message)):
        param = _renamed(found[1], prompt_param)
        message = f"{param}: {message[found.end() :]}"
    return ApiError(kind, message or failure.code.name, param, retry_after_s=failure.retry_after_s)


def _renamed(path: str, prompt_param: str) -> str:
    if path in _PROMPTS:
        return prompt_param
    for old, new in _RENAMED:
        if path == old or (path.startswith(old) and (old.endswith(".") or path[len(old)] in "[.")):
            path = new + path[len(old) :]
            break
    return path.replace("tool_calls_json", "tool_calls")
