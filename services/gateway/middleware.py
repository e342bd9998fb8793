"""What every request passes, whatever its path.

Owns its id, the door that closes before the process ends, and the last word when something fails.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.gateway.errors import INTERNAL, ApiError
from services.gateway.metrics import Counts

logger = logging.getLogger(__name__)

REQUEST_ID = "X-Request-Id"
_MAX_ID_LEN = 128


class Door:
    """Whether this process is about to end, and how many requests run.

    While it is, health says so, and each answer closes its connection: whoever has a connection open is still
    answered, and comes back to another gateway.

    Args:
        counts: Where requests are counted.
    """

    def __init__(self, counts: Counts) -> None:
        self.is_closing = False
        self.idle = asyncio.Event()
        """Set while nothing runs."""
        self.idle.set()
        self._counts = counts

    def enter(self) -> None:
        """A request begins."""
        self._counts.num_active += 1
        self.idle.clear()

    def leave(self) -> None:
        """A request has ended."""
        self._counts.num_active -= 1
        if not self._counts.num_active:
            self.idle.set()


class RequestGuard:
    """The outermost layer.

    Args:
        app: What is inside.
        door: Whether the process is about to end.
        counts: Where responses are counted.
    """

    def __init__(self, app: ASGIApp, door: Door, counts: Counts) -> None:
        self._app = app
        self._door = door
        self._counts = counts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(Headers(scope=scope).get(REQUEST_ID, ""))
        has_started = False

        async def send_named(message: Message) -> None:
            nonlocal has_started
            if message["type"] == "http.response.start":
                has_started = True
                self._counts.statuses[message["status"]] += 1
                headers = MutableHeaders(scope=message)
                headers[REQUEST_ID] = request_id
                if self._door.is_closing:
                    headers["Connection"] = "close"
            await send(message)

        self._door.enter()
        try:
            await self._app(scope, receive, send_named)
        except ClientDisconnect:
            self._counts.num_disconnects += 1
        except Exception as error:  # noqa: BLE001 - the last word
            # Not its message, which may quote what was sent.
            frames = "".join(traceback.format_tb(error.__traceback__))
            logger.error("a request failed", extra={"error": type(error).__name__, "frames": frames})
            if not has_started:
                await ApiError(INTERNAL, "internal error").response()(scope, receive, send_named)
        finally:
            self._door.leave()


def _request_id(given: str) -> str:
    if 0 < len(given) <= _MAX_ID_LEN and given.isascii() and given.isprintable():
        return given
    return uuid.uuid4().hex
