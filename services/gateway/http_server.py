"""The HTTP server: uvicorn, with Trivium's errors and a bound on the time that a request's head may take.

Owns connections. What requests say is up to `services.gateway.app`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import Iterator
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from services.gateway.errors import INVALID, ApiError

_LARGEST_BACKLOG = 2048
# Of connections that are about to close.
_CLOSE_GRACE_S = 1


def protocol_type(header_timeout_s: float) -> type[HttpToolsProtocol]:
    """A connection of the server.

    Args:
        header_timeout_s: Seconds that the head of a request may take, and a connection may be quiet before.
    """

    class Protocol(HttpToolsProtocol):
        _head_timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._await_head()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_timer()
            super().connection_lost(exc)

        def on_message_begin(self) -> None:
            super().on_message_begin()
            if self._head_timer is None:
                self._await_head()

        def on_headers_complete(self) -> None:
            self._stop_timer()
            super().on_headers_complete()

        def send_400_response(self, msg: str) -> None:
            body = json.dumps(ApiError(INVALID, msg.rstrip(".")).body()).encode()
            head = (
                "HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\n"
                f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
            )
            self.transport.write(head.encode() + body)
            self.transport.close()

        def _await_head(self) -> None:
            self._head_timer = self.loop.call_later(header_timeout_s, self.transport.close)

        def _stop_timer(self) -> None:
            if self._head_timer is not None:
                self._head_timer.cancel()
                self._head_timer = None

    return Protocol


class HttpServer(uvicorn.Server):
    """Serves an app; signals are somebody else's."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Captures none."""
        yield


def create_server(app: ASGIApp, *, header_timeout_s: float) -> HttpServer:
    """Makes the server.

    Args:
        app: What it serves.
        header_timeout_s: See `protocol_type`.
    """
    options: dict[str, Any] = {
        "http": protocol_type(header_timeout_s),
        "ws": "none",
        "lifespan": "off",
        "access_log": False,
        "log_config": None,
        "server_header": False,
        "proxy_headers": False,
        "timeout_keep_alive": max(1, round(header_timeout_s)),
        "timeout_graceful_shutdown": _CLOSE_GRACE_S,
        "backlog": _LARGEST_BACKLOG,
    }
    return HttpServer(uvicorn.Config(app, **options))


def listening_socket(host: str, port: int) -> socket.socket:
    """Listens.

    Raises:
        OSError: The port is taken, or the address isn't this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Named, since asyncio sends small pieces at once only where it knows that it's TCP.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(_LARGEST_BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener
