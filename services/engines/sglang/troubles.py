"""What it means for a sequence that SGLang didn't carry out its request.

Owns the three meanings, how SGLang's own ways of failing map to them, and the errors that callers get. Doesn't import
SGLang.

SGLang 0.5 fails a request in two ways. `async_generate` raises: `ValueError` for a request that it refuses before it
is scheduled (`TokenizerManager._validate_one_request`), `fastapi.HTTPException` with a status code, or whatever broke
inside it. Or the request's last output has a finish reason of type "abort" with a status code (`FINISH_ABORT`): 400
for a request that can't be scheduled, 503 where the queue is full or a time limit has passed, 500 where the KV pool
ran out even for the last running request, none where somebody asked for the abort.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from http import HTTPStatus
from typing import Any

from services.common.errors import CapacityExceeded, InvalidRequest, TriviumError


class Trouble(StrEnum):
    """Whether the same request may succeed later."""

    PASSES = "passes"
    """SGLang had no room or was told to stop: the same request may be served later."""

    REFUSED = "refused"
    """SGLang takes no such request, at any time."""

    FAULT = "fault"
    """Something broke while the request was carried out."""


def trouble_of_exception(error: BaseException) -> Trouble:
    """What an exception of `async_generate`, or of what was done with its outputs, means."""
    status_code = getattr(error, "status_code", None)
    if status_code is not None:
        return _trouble_of_status(int(status_code))
    return Trouble.REFUSED if isinstance(error, ValueError) else Trouble.FAULT


def trouble_of_abort(finish_reason: Mapping[str, Any]) -> Trouble:
    """What a finish reason of type "abort" means."""
    status_code = finish_reason.get("status_code")
    return Trouble.PASSES if status_code is None else _trouble_of_status(int(status_code))


def _trouble_of_status(status_code: int) -> Trouble:
    return Trouble.PASSES if status_code >= HTTPStatus.INTERNAL_SERVER_ERROR else Trouble.REFUSED


def error_for(trouble: Trouble, message: str) -> TriviumError:
    """The error that a caller gets.

    Only `PASSES` becomes one that callers try again, and the engine has tried several times before it says so.
    """
    if trouble is Trouble.PASSES:
        return CapacityExceeded(f"SGLang has no room for the sequence: {message}")
    if trouble is Trouble.REFUSED:
        return InvalidRequest(f"token_ids: SGLang takes no such sequence: {message}")
    return TriviumError(f"SGLang failed on the sequence: {message}")
