"""The HTTP server: uvicorn, with Trivium's errors, and bounds on a request's head.

Owns connections. What requests say is up to `services.gateway.app`.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import Any

import httptools
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from services.gateway.errors import bare_refusal
from services.gateway.https import RenewingContext

_LARGEST_BACKLOG = 2048
_MAX_HEAD_BYTES = 64 * 1024
# Of connections that are about to close.
_CLOSE_GRACE_S = 1


def protocol_type(header_timeout_s: float) -> type[HttpToolsProtocol]:
    """A connection of the server.

    Args:
        header_timeout_s: Seconds that the head of a request may take, and a connection may be quiet before.
    """

    class Protocol(HttpToolsProtocol):
        _head_timer: asyncio.TimerHandle | None = None
        _num_head_bytes = 0
        _num_unread = 0

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._await_head()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_timer()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            if self._num_unread:
                self._read_past_offer(data)
                return
            self._unset_keepalive_if_required()
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as offer:
                self._pass_over_offer(data[offer.args[0] :])
            except httptools.HttpParserError:
                self.send_400_response("what arrived is no HTTP request")
            if self._head_timer is not None and not self.transport.is_closing():
                self._num_head_bytes += len(data)
                if self._num_head_bytes > _MAX_HEAD_BYTES:
                    self.send_400_response(f"the head of the request has more than {_MAX_HEAD_BYTES} bytes")

        def _pass_over_offer(self, rest: bytes) -> None:
            """Goes on in HTTP/1.1 with a client that offers another protocol: the parser took its body for that."""
            lengths = [value for name, value in self.headers if name == b"content-length"]
            self._num_unread = int(lengths[0]) if lengths else 0
            self.cycle.more_body = self._num_unread > 0
            self.parser = httptools.HttpRequestParser(self)
            self._read_past_offer(rest)

        def _read_past_offer(self, data: bytes) -> None:
            body, rest = data[: self._num_unread], data[self._num_unread :]
            if self._num_unread:
                self._num_unread -= len(body)
                self.on_body(body)
                if not self._num_unread:
                    self.on_message_complete()
            if rest:
                self.data_received(rest)

        def on_message_begin(self) -> None:
            super().on_message_begin()
            if self._head_timer is None:
                self._await_head()

        def on_headers_complete(self) -> None:
            self._stop_timer()
            super().on_headers_complete()

        def send_400_response(self, msg: str) -> None:
            self.transport.write(bare_refusal(msg.rstrip(".")))
            self.transport.close()

        def _await_head(self) -> None:
            self._head_timer = self.loop.call_later(header_timeout_s, self.transport.close)

        def _stop_timer(self) -> None:
            if self._head_timer is not None:
                self._head_timer.cancel()
                self._head_timer = None
                self._num_head_bytes = 0

    return Protocol


class HttpServer(uvicorn.Server):
    """Serves an app; signals are somebody else's."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Captures none."""
        yield


def create_server(app: ASGIApp, *, header_timeout_s: float, tls: RenewingContext | None = None) -> HttpServer:
    """Makes the server.

    Args:
        app: What it serves.
        header_timeout_s: See `protocol_type`.
        tls: Of HTTPS; None for plain HTTP.
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
        "ssl_context_factory": (lambda _config, _default: tls) if tls else None,
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
