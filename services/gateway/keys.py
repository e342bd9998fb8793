"""Who may call, by key, and in whose name orchestrators are asked."""

from __future__ import annotations

import grpc
from starlette.requests import Request

from services.common.access.keys import Keys, shown_key
from services.common.access.tenant import Refusal
from services.gateway.errors import BY_CODE, ApiError


class KeyCheck:
    """Lets a request pass whose key counts, before any of its body is read.

    Args:
        keys: All keys.
    """

    def __init__(self, keys: Keys) -> None:
        self._keys = keys

    async def __call__(self, request: Request) -> None:
        """Checks a request.

        Raises:
            ApiError: It shows no key, or none that counts.
        """
        found = self._keys.tenant_of(request.headers.get("authorization"))
        if isinstance(found, Refusal):
            raise ApiError(BY_CODE[grpc.StatusCode.UNAUTHENTICATED], found.message)


def key_of(request: Request) -> str | None:
    """The key that a request shows, whether or not it counts; None where it shows none."""
    return shown_key(request.headers.get("authorization", "")) or None
