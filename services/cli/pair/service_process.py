"""One service as a child process of `trivium`.

Owns its command line, and the port that it keeps through all its lives.
"""

from __future__ import annotations

import sys
from pathlib import Path

from services.cli.pair.child import Child
from services.cli.pair.launch import ServiceCommand


class ServiceProcess(Child):
    """A `python -m <module>`.

    Args:
        command: What to run; `--port` and `--port-file` are added.
        port: TCP port; 0 picks a free one, once.
        directory: Where `<name>.log` and `<name>.port` go. It has to exist.
    """

    def __init__(self, command: ServiceCommand, *, port: int, directory: Path) -> None:
        super().__init__(command.name, directory / f"{command.name}.log", command.secrets)
        self._service = command
        self._port = port
        self._has_listened = False
        self._port_path = directory / f"{command.name}.port"
        # Another pair may have left one.
        self._port_path.unlink(missing_ok=True)

    @property
    def address(self) -> str | None:
        """Where it listens, as "host:port"; None until it does for the first time."""
        if not self._has_listened and self._port_path.exists():
            # It is written at once, never in parts.
            self._port = int(self._port_path.read_text(encoding="ascii"))
            self._has_listened = True
        return f"127.0.0.1:{self._port}" if self._has_listened else None

    def _command(self) -> list[str]:
        listening = ["--port", str(self._port), "--port-file", str(self._port_path)]
        return [sys.executable, "-m", self._service.module, *listening, *self._service.arguments]
