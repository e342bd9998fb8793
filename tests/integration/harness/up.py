"""`trivium up` as a process, for tests.

Owns its start, what it says, and who belongs to it.
"""

from __future__ import annotations

import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from services.cli.pair.state import RunningPair, load_state

START_TIMEOUT_S = 240.0


def trivium(state_dir: Path, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Runs a command to its end."""
    return subprocess.run(
        command(state_dir, *arguments), input=stdin, capture_output=True, text=True, timeout=120, check=False
    )


def command(state_dir: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "services.cli", *arguments, "--state-dir", str(state_dir)]


class RunningUp:
    """A `trivium up` that was started. Its output is stdout and stderr together."""

    def __init__(self, state_dir: Path, *arguments: str) -> None:
        self.state_dir = state_dir
        self.start_lines: list[str] = []
        self.process = subprocess.Popen(
            command(state_dir, "up", "--port", "0", "--http-port", "0", *arguments),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def state(self) -> RunningPair:
        state = load_state(self.state_dir)
        assert state is not None
        return state

    @property
    def address(self) -> str:
        return self.state.addresses["orchestrator"]

    def pid_of(self, name: str) -> int:
        return self.state.processes[name].pid

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def lines_until(self, start: str, timeout_s: float = START_TIMEOUT_S) -> list[str]:
        """What it says until a line that starts so."""
        lines: list[str] = []
        deadline = time.monotonic() + timeout_s
        while not (lines and lines[-1].startswith(start)):
            try:
                lines.append(self._lines.get(timeout=max(0.0, deadline - time.monotonic())))
            except queue.Empty:
                pytest.fail(f"no line {start!r} within {timeout_s:g} s after {lines}")
            if lines[-1] == "":
                pytest.fail(f"it ended before a line {start!r}: {lines}")
        return lines

    def rest(self, timeout_s: float = 60.0) -> str:
        """What it says until its end."""
        self.process.wait(timeout_s)
        self._reader.join(timeout_s)
        lines = []
        while line := self._lines.get(timeout=timeout_s):
            lines.append(line)
        self._lines.put("")
        return "".join(lines)

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait(60)
        self._reader.join(60)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)
        self._lines.put("")


@contextmanager
def running_up(state_dir: Path, *arguments: str) -> Iterator[RunningUp]:
    """Starts a pair, waits until it serves, and stops it in the end if it still runs."""
    up = RunningUp(state_dir, *arguments)
    try:
        up.start_lines = up.lines_until("ready")
        yield up
    finally:
        up.stop()


def until(condition: Callable[[], bool], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s"
        time.sleep(0.02)


def assert_all_end(processes: Sequence[psutil.Process], timeout_s: float) -> None:
    """Waits until none of these runs. Who was left behind may stay a zombie, for want of someone who asks."""
    until(lambda: not any(map(_runs, processes)), timeout_s)


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
