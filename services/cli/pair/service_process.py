"""One service as a child process of `trivium`.

Owns its command line, log file, port file and end. Knows nothing of what the service does.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil

from services.cli.pair.launch import ServiceCommand
from services.cli.pair.state import LocalProcess


class ServiceProcess:
    """A started `python -m <module>`, in a session of its own so that a terminal's Ctrl-C reaches `trivium` alone.

    Args:
        command: What to run; `--port` and `--port-file` are added.
        port: TCP port; 0 picks a free one.
        directory: Where `<name>.log` and `<name>.port` go. It has to exist.
    """

    def __init__(self, command: ServiceCommand, *, port: int, directory: Path) -> None:
        self.name = command.name
        self.log_path = directory / f"{self.name}.log"
        self._port_path = directory / f"{self.name}.port"
        self._port_path.unlink(missing_ok=True)
        listening = ["--port", str(port), "--port-file", str(self._port_path)]
        with self.log_path.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", command.module, *listening, *command.arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **command.secrets},
                start_new_session=True,
            )
        self.identity = LocalProcess.of(self._process.pid)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """What it ended with; negative for a signal; None while it runs."""
        return self._process.poll()

    @property
    def address(self) -> str | None:
        """Where it listens, as "host:port"; None until it does."""
        try:
            text = self._port_path.read_text(encoding="ascii").strip()
        except FileNotFoundError:
            return None
        return f"127.0.0.1:{text}" if text else None

    def log_tail(self, num_lines: int = 15) -> list[str]:
        """The last lines that it wrote."""
        return self.log_path.read_text(encoding="utf-8", errors="replace").splitlines()[-num_lines:]

    def terminate(self) -> None:
        """Asks it to drain and end."""
        if self.exit_code is None:
            self._process.terminate()

    def wait(self, timeout_s: float) -> None:
        """Waits `timeout_s` seconds for its end, then kills it and whatever it started."""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """Ends it and whatever it started, at once."""
        if self.exit_code is None:
            for child in psutil.Process(self.pid).children(recursive=True):
                child.kill()
            self._process.kill()
        self._process.wait()
