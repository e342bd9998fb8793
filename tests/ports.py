"""Ports for servers that can't choose one by themselves."""

from __future__ import annotations

import secrets
import socket

_PORTS = range(20_000, 30_000)
"""Below those that systems hand out by themselves: nobody gets one of these between its choice and its use."""


def free_port() -> int:
    """A port that nobody has at the moment."""
    while True:
        port = secrets.choice(_PORTS)
        with socket.socket() as probe:
            # Connections that have ended don't count, as they don't for servers.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
