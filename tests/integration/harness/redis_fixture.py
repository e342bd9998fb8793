"""A real Redis server on a TCP port, as clusters have one, and the fixture of it.

Owns its process and its end. The one of `trivium up` listens on a Unix socket: see `services.cli.pair.redis_server`.
"""

from __future__ import annotations

import re
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Self

import pytest

from services.cli.pair.redis_server import find_redis_binary
from tests.ports import free_port

_HOST = "127.0.0.1"
_START_TIMEOUT_S = 10.0


class RedisServer:
    """Keeps nothing. A context manager.

    Args:
        port: TCP port; 0 takes a free one.
        options: Its other options, as on its command line.
    """

    def __init__(self, port: int = 0, *options: str) -> None:
        self.port = port
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://{_HOST}:{self.port}/0"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> Self:
        self.port = self.port or free_port()
        listening = ("--bind", _HOST, "--port", str(self.port), "--dir", tempfile.gettempdir())
        # A memory limit, since Redis forgets keys only then.
        keeping = ("--save", "", "--appendonly", "no", "--maxmemory", "64mb", "--maxmemory-policy", "allkeys-lru")
        self._process = subprocess.Popen(
            [str(find_redis_binary()), *listening, *keeping, *self._options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            process_group=0,
        )
        deadline = time.monotonic() + _START_TIMEOUT_S
        # On a port that was taken, another server may answer while this one is about to give up.
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                pytest.fail(f"Redis didn't start on port {self.port}")
            time.sleep(0.02)
        return self

    def stop(self) -> None:
        """Ends it; does nothing if it doesn't run."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _answers(self) -> bool:
        try:
            with socket.create_connection((_HOST, self.port), timeout=1) as connection:
                connection.sendall(b"INFO server\r\nQUIT\r\n")
                with connection.makefile("rb") as reply:
                    answer = reply.read()
        except OSError:
            return False
        told = re.search(rb"process_id:(\d+)", answer)
        # With a password it tells nothing before it has heard it.
        return b"NOAUTH" in answer or (told is not None and int(told[1]) == self.pid)


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server
