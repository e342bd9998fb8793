"""The `trivium` command on a pseudo-terminal, for tests: typed into, read from, interrupted.

Owns the terminal and its size. What is on the other side of a request is up to the test.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

TRIVIUM = [sys.executable, "-m", "services.cli"]
CTRL_C = "\x03"

_TIMEOUT_S = 60.0
_DECIDING = ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "PYTHONUNBUFFERED", "PYTHONIOENCODING", "PYTHONUTF8")
_SEQUENCE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b\][^\x07]*\x07")
_OWN_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
)


def environment(more: Mapping[str, str]) -> dict[str, str]:
    """That of this process, without what would decide about streams and terminals, and with more."""
    return {name: value for name, value in os.environ.items() if name not in _DECIDING} | dict(more)


@contextmanager
def piped(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A command that runs without a terminal, on three pipes."""
    with subprocess.Popen(
        [*TRIVIUM, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment({}),
    ) as process:
        yield process


class Terminal:
    """A command that runs on a terminal of its own."""

    def __init__(self, arguments: list[str], columns: int, environ: Mapping[str, str]) -> None:
        self._ours, theirs = os.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.process = subprocess.Popen(
            [sys.executable, "-c", _OWN_TERMINAL, *TRIVIUM, *arguments],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            env=environment({"TERM": "xterm-256color", **environ}),
        )
        os.close(theirs)
        self._bytes = bytearray()

    @property
    def written(self) -> str:
        """All that was written."""
        return self._bytes.decode(errors="replace")

    @property
    def screen(self) -> str:
        """What was written, without colours and movements of the cursor."""
        return _SEQUENCE.sub("", self.written).replace("\r", "")

    def wait_until_idle(self) -> None:
        """Waits until its main thread sleeps: readline sees a signal that came just before at the next key alone."""
        state = Path(f"/proc/{self.process.pid}/stat")
        deadline = time.monotonic() + _TIMEOUT_S
        while state.read_text().rpartition(") ")[2][0] != "S":
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode("utf-8", "surrogateescape"))

    def wait_for(self, text: str, times: int = 1) -> None:
        """Reads until a text stands on the screen, that many times."""
        deadline = time.monotonic() + _TIMEOUT_S
        while self.screen.count(text) < times:
            assert self._read(deadline), f"no {text!r} in {self.screen!r}"

    def end(self) -> int:
        """Reads until the command has ended; its exit code."""
        deadline = time.monotonic() + _TIMEOUT_S
        while self._read(deadline):
            pass
        return self.process.wait(max(0.1, deadline - time.monotonic()))

    def close(self) -> None:
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(_TIMEOUT_S)
        os.close(self._ours)

    def _read(self, deadline: float) -> bool:
        if not select.select([self._ours], [], [], max(0.0, deadline - time.monotonic()))[0]:
            return False
        try:
            read = os.read(self._ours, 65536)
        except OSError:
            # How Linux tells that nobody holds the other end any more.
            return False
        self._bytes += read
        return bool(read)


@contextmanager
def terminal(*arguments: str, columns: int = 80, environ: Mapping[str, str] | None = None) -> Iterator[Terminal]:
    """Runs a command on a terminal for the length of a `with` block."""
    running = Terminal(list(arguments), columns, environ or {})
    try:
        yield running
    finally:
        running.close()
