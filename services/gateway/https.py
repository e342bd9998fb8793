"""HTTPS: connections are made with what the files hold at the time, and say why where they can't be made."""

from __future__ import annotations

import ssl
from typing import Any

from services.common.serving.tls import LivePem, Pem, TlsFiles, server_context
from services.gateway.errors import bare_refusal

_PLAIN = frozenset({"HTTP_REQUEST", "HTTPS_PROXY_REQUEST"})


class RenewingContext(ssl.SSLContext):
    """The TLS of a server of asyncio's or uvloop's. A connection keeps what it was made with.

    Args:
        files: The server's certificate and key; with a CA, clients have to show a certificate of it.

    Raises:
        ValueError: The files can't be used.
    """

    def __new__(cls, files: TlsFiles) -> RenewingContext:
        """Makes what the loop takes for the context of every connection."""
        return super().__new__(cls, ssl.PROTOCOL_TLS_SERVER)

    def __init__(self, files: TlsFiles) -> None:
        self._live = LivePem(files)
        self._newest = _context(self._live.pem)

    def wrap_bio(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, *_: Any, **__: Any) -> ssl.SSLObject:
        """Makes the TLS of a new connection."""
        # A context of its own for each renewal: one that a CA was added to would go on to trust the old one, and
        # sessions of clients that are trusted no more could be resumed.
        if self._live.refresh():
            self._newest = _context(self._live.pem)
        connection = self._newest.wrap_bio(incoming, outgoing, server_side=True)
        assert isinstance(connection, _Connection)
        connection.outgoing = outgoing
        return connection


class _Connection(ssl.SSLObject):
    """Sends its last words where the handshake fails: the loop drops them otherwise, and closes without a reason."""

    outgoing: ssl.MemoryBIO
    _failure = ""

    def do_handshake(self) -> None:
        if self._failure:
            raise ssl.SSLError(self._failure)
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            self._failure = str(error)
            if error.reason in _PLAIN:
                self.outgoing.write(bare_refusal("this port takes HTTPS alone"))
            # Which makes the loop send. It closes with the client, or when the handshake takes too long.
            raise ssl.SSLWantReadError from None


def _context(pem: Pem) -> ssl.SSLContext:
    context = server_context(pem)
    context.set_alpn_protocols(["http/1.1"])
    context.sslobject_class = _Connection
    return context
