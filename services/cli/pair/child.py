"""A program as a child process of `trivium`.

Owns its start, as often as it is needed, its log and its end. Knows nothing of what the program does, nor when it is
started again.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path

from services.cli.log_lines import last_serious
from services.cli.pair.state import LocalProcess
from services.common import guarded


class Child(ABC):
    """Ends at the latest when this process does, by whatever. It has a session of its own: Ctrl-C is for `trivium`.

    Each life adds to one log. The thread that calls `start` has to outlive the process (`services.common.guarded`).

    Args:
        name: Its name.
        log_path: Where its output goes; the folder has to exist. What is there is replaced.
        environ: Variables beside those of this process.
    """

    def __init__(self, name: str, log_path: Path, environ: Mapping[str, str] | None = None) -> None:
        self.name = name
        self.log_path = log_path
        self.identity: LocalProcess | None = None
        self._environ = environ or {}
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0
        log_path.write_bytes(b"")

    @property
    @abstractmethod
    def address(self) -> str | None:
        """Where it listens, the same in all its lives; None until it has for the first time."""

    @abstractmethod
    def _command(self) -> list[str]:
        """The absolute path of a program, and its arguments."""

    def start(self) -> None:
        """Starts it. It must not run.

        Raises:
            OSError: The machine can't run one more process.
        """
        self._log_start = self.log_path.stat().st_size
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                guarded.command(self._command()),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self._environ},
                start_new_session=True,
            )
        self.identity = LocalProcess.of(self._process.pid)

    @property
    def pid(self) -> int:
        """Its process id, in the life that is the last.

        Raises:
            RuntimeError: It was never started.
        """
        return self._started.pid

    def poll(self) -> int | None:
        """Looks whether it has ended; if so, what it left behind in its process group ends, too.

        Returns:
            Its exit code, negative for a signal; None while it runs.
        """
        process = self._started
        if process.returncode is None and _has_ended(process.pid):
            # The group's number is its own until it is reaped.
            _kill_group(process.pid)
            process.wait()
        return process.returncode

    @property
    def ending(self) -> str:
        """How it ended and why, as far as its log tells. Valid once it has ended."""
        code = self.poll()
        assert code is not None
        if code < 0:
            return f"was killed by {_signal_name(-code)}"
        reason = last_serious(self._log())
        return f"ended with exit code {code}" + (f": {reason}" if reason else "")

    def terminate(self) -> None:
        """Asks it to drain and end."""
        if self.is_running:
            self._started.terminate()

    def wait(self, timeout_s: float) -> None:
        """Waits `timeout_s` seconds for its end, then kills it."""
        if self.is_running and not _ends_within(self.pid, timeout_s):
            self.kill()
        elif self._process is not None:
            self.poll()

    def kill(self) -> None:
        """Ends it and its process group, at once."""
        if not self.is_running:
            return
        _kill_group(self.pid)
        self._started.wait()

    @property
    def is_running(self) -> bool:
        """Whether it was started and hasn't ended."""
        return self._process is not None and self.poll() is None

    @property
    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError(f"{self.name} isn't started")
        return self._process

    def _log(self) -> str:
        with self.log_path.open("rb") as log:
            log.seek(self._log_start)
            return log.read().decode(errors="replace")


def _signal_name(number: int) -> str:
    """E.g. "SIGKILL"; those for real time have numbers alone."""
    return signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"


def _has_ended(pid: int) -> bool:
    """Whether a child has ended; leaves it to be reaped."""
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        # Another thread was quicker.
        return True


def _ends_within(pid: int, timeout_s: float) -> bool:
    """Whether a child ends within `timeout_s` seconds; leaves it to be reaped."""
    process = os.pidfd_open(pid)
    try:
        return bool(select.select([process], [], [], timeout_s)[0])
    finally:
        os.close(process)


def _kill_group(group: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
