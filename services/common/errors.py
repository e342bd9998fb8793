"""The errors of Trivium, one class a kind, each with its gRPC status code and a message that fits into a status.

Owns the mapping of kinds to codes and the bound of messages: the interceptor of `services.common.serving` turns a
raised error into a status.
"""

from __future__ import annotations

import copy
from typing import ClassVar, Self

import grpc

MAX_MESSAGE_BYTES = 1024
"""Longest message of an error. A status travels in HTTP/2 headers, of which a peer takes 8 KiB: there each byte that
isn't ASCII takes three, and the status details hold the message once more."""

KIND_KEY = "trivium-error"
"""Trailing metadata that names the class of the error that a call ended with. A call that ended without one was ended
by nobody: its connection broke, or its server ended."""

_CUT = " … "


class TriviumError(Exception):
    """Base of all errors that a caller is told about.

    Args:
        message: Names the offending field. It may quote input: control characters are escaped, and the middle of what
            is longer than `MAX_MESSAGE_BYTES` is left out.
    """

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.INTERNAL

    def __init__(self, message: str) -> None:
        super().__init__(_bounded(message))

    def afresh(self) -> Self:
        """Returns an equal error that nobody has raised yet.

        An error collects a traceback at each raise, and with it all that the frames hold: one that is raised again
        and again never lets go of anything.
        """
        return copy.copy(self)


def _bounded(message: str) -> str:
    # What is cut away below needn't be looked at.
    shortened = message if len(message) <= 2 * MAX_MESSAGE_BYTES else _ends(message, MAX_MESSAGE_BYTES)
    printable = "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in shortened
    )
    encoded = printable.encode()
    if len(encoded) <= MAX_MESSAGE_BYTES:
        return printable
    kept = (MAX_MESSAGE_BYTES - len(_CUT.encode())) // 2
    return encoded[:kept].decode(errors="ignore") + _CUT + encoded[-kept:].decode(errors="ignore")


def _ends(text: str, length: int) -> str:
    return text[:length] + text[-length:]


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


class Unauthenticated(TriviumError):
    """The caller shows no key, or none that counts."""

    code = grpc.StatusCode.UNAUTHENTICATED


class NotAllowed(TriviumError):
    """The caller is known, and may not ask for this."""

    code = grpc.StatusCode.PERMISSION_DENIED


class DeadlineExceeded(TriviumError):
    """The call took longer than calls may that name no deadline of their own."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED


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
