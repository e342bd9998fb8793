"""The errors of Trivium, one class a kind, each with its gRPC status code.

Owns the mapping of kinds to codes and nothing else: `services.common.server` turns a raised error into a status.
"""

from __future__ import annotations

from typing import ClassVar

import grpc


class TriviumError(Exception):
    """Base of all errors that a caller is told about. The message names the offending field."""

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.INTERNAL


class InvalidRequest(TriviumError):
    """The request could never be served, whatever the state of the system."""

    code = grpc.StatusCode.INVALID_ARGUMENT


class ContextLengthExceeded(TriviumError):
    """The sequence is longer than the model's context."""

    code = grpc.StatusCode.OUT_OF_RANGE


class PrefixNotFound(TriviumError):
    """The replica doesn't know the sequence; resend it from `need_from`."""

    code = grpc.StatusCode.NOT_FOUND

    def __init__(self, message: str, *, need_from: int = 0) -> None:
        super().__init__(message)
        self.need_from = need_from


class PrefixConflict(TriviumError):
    """The replica holds less of the sequence than the caller thinks; resend it from `need_from`."""

    code = grpc.StatusCode.ABORTED

    def __init__(self, message: str, *, need_from: int = 0) -> None:
        super().__init__(message)
        self.need_from = need_from


class SequenceTaken(TriviumError):
    """Another stream has the sequence. It may be the caller's own, of which only the caller knows that it is dead."""

    code = grpc.StatusCode.ABORTED


class RouterModelMismatch(TriviumError):
    """The router was trained for another SLM."""

    code = grpc.StatusCode.FAILED_PRECONDITION


class TokenizerMismatch(TriviumError):
    """SLM and LLM don't share a tokenizer or vocabulary."""

    code = grpc.StatusCode.FAILED_PRECONDITION


class SweepMissing(TriviumError):
    """The router carries no validation sweep, so no budget can be turned into a threshold."""

    code = grpc.StatusCode.FAILED_PRECONDITION


class ReplicaMismatch(TriviumError):
    """The replica serves another model than its fellows."""

    code = grpc.StatusCode.FAILED_PRECONDITION


class CapacityExceeded(TriviumError):
    """No room now: the KV budget or a queue is full. The same call may succeed later.

    Args:
        message: Names what is full.
        retry_after_s: When the caller may try again, in seconds.
    """

    code = grpc.StatusCode.RESOURCE_EXHAUSTED

    def __init__(self, message: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Cancelled(TriviumError):
    """Somebody else cancelled the request."""

    code = grpc.StatusCode.CANCELLED


class ModelNotReady(TriviumError):
    """The process serves, but its model or its peers aren't ready."""

    code = grpc.StatusCode.UNAVAILABLE


class Draining(TriviumError):
    """The process is about to stop and takes nothing new."""

    code = grpc.StatusCode.UNAVAILABLE


class PeerUnavailable(TriviumError):
    """No replica of a service that the call needs answers."""

    code = grpc.StatusCode.UNAVAILABLE


_BY_CODE: dict[int, type[TriviumError]] = {
    kind.code.value[0]: kind
    for kind in (
        InvalidRequest,
        ContextLengthExceeded,
        PrefixNotFound,
        PrefixConflict,
        ReplicaMismatch,
        CapacityExceeded,
        PeerUnavailable,
    )
}


def error_for_code(code: int, message: str) -> TriviumError:
    """Turns a peer's `SequenceError` back into an error.

    Args:
        code: The number of a gRPC status code.
        message: The peer's message.

    Returns:
        An error with that code, or a plain `TriviumError` (INTERNAL) for codes that no kind has.
    """
    return _BY_CODE.get(code, TriviumError)(message)
