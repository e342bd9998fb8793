"""What a caller of the client is told when a call fails.

Owns the reading of a gRPC status, with what the servers add to it.
"""

from __future__ import annotations

import grpc

from services.common.errors import KIND_KEY

_RETRY_KEY = "grpc-retry-pushback-ms"


class CallFailed(Exception):
    """A call failed.

    Attributes:
        code: As the orchestrator said, or gRPC.
        message: Why. Of a request that can't be served it begins with the path of the field.
        retry_after_s: Seconds after which the same call may succeed; None where nothing is said.
        kind: The class of the orchestrator's error; empty where the call was lost on the way.
    """

    def __init__(
        self, code: grpc.StatusCode, message: str, *, retry_after_s: float | None = None, kind: str = ""
    ) -> None:
        super().__init__(f"{code.name}: {message}")
        self.code = code
        self.message = message
        self.retry_after_s = retry_after_s
        self.kind = kind

    @classmethod
    def of(cls, error: grpc.aio.AioRpcError) -> CallFailed:
        """What a status says."""
        told = {key: value for key, value in error.trailing_metadata() or () if isinstance(value, str)}
        pushback_ms = told.get(_RETRY_KEY, "")
        return CallFailed(
            error.code(),
            error.details() or "",
            retry_after_s=int(pushback_ms) / 1000 if pushback_ms.isdecimal() else None,
            kind=told.get(KIND_KEY, ""),
        )


class GenerationFailed(CallFailed):
    """A completion failed, and isn't gone on with.

    Attributes:
        num_tokens: Completion tokens that had arrived before.
    """

    def __init__(
        self,
        code: grpc.StatusCode,
        message: str,
        *,
        num_tokens: int,
        retry_after_s: float | None = None,
        kind: str = "",
    ) -> None:
        super().__init__(code, message, retry_after_s=retry_after_s, kind=kind)
        self.num_tokens = num_tokens
