"""The file by which `trivium` commands find the pair that `trivium up` runs on this machine.

Owns its format and its life: written when the first process starts, removed when the last one has stopped. A process
is known by its pid and its start time, so that a pid used again is never mistaken for it.
"""

from __future__ import annotations

from pathlib import Path

import psutil
from pydantic import BaseModel, ConfigDict

from services.cli.errors import CliError

_FILE_NAME = "running.json"


class LocalProcess(BaseModel):
    """A process of this machine."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    pid: int
    started_at: float

    @classmethod
    def of(cls, pid: int) -> LocalProcess:
        """Describes a running process.

        Raises:
            psutil.NoSuchProcess: There is none with this pid.
        """
        return cls(pid=pid, started_at=psutil.Process(pid).create_time())

    def handle(self) -> psutil.Process | None:
        """The process, or None if it is gone."""
        try:
            process = psutil.Process(self.pid)
            same = process.create_time() == self.started_at and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return None
        return process if same else None


class RunningPair(BaseModel):
    """A pair that runs, or is being started.

    Attributes:
        pair: Name of the pair.
        owner: The `trivium` command that started it.
        services: What it is made of, in the order in which it is shown.
        processes: Its services by name, as far as they are started, and "redis" if it has one of its own.
        addresses: "host:port" of each service that listens.
        folders: Folders of theirs that are removed in the end.
        ready: True once the orchestrator serves.
    """

    model_config = ConfigDict(extra="forbid")

    pair: str
    owner: LocalProcess
    services: tuple[str, ...] = ("slm", "router", "llm", "orchestrator")
    processes: dict[str, LocalProcess] = {}
    addresses: dict[str, str] = {}
    folders: list[Path] = []
    ready: bool = False


def save_state(directory: Path, state: RunningPair) -> None:
    """Writes the file; a reader sees the old one or the new one, never a part."""
    directory.mkdir(parents=True, exist_ok=True)
    temporary = directory / f"{_FILE_NAME}.{state.owner.pid}"
    temporary.write_text(state.model_dump_json(indent=2), encoding="utf-8")
    temporary.replace(directory / _FILE_NAME)


def load_state(directory: Path) -> RunningPair | None:
    """Reads the file, whether or not what it tells of still runs.

    Returns:
        What it tells; None if there is no file.

    Raises:
        CliError: It isn't what `trivium up` writes, or can't be read.
    """
    path = directory / _FILE_NAME
    try:
        return RunningPair.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CliError(f"--state-dir: {path} can't be read: {error.strerror}") from error
    except ValueError as error:
        raise CliError(f"{path}: not a state file of this version of trivium; remove it") from error


def running_pair(directory: Path) -> RunningPair | None:
    """The pair that runs now; None if there is none, or the command that started it is gone."""
    state = load_state(directory)
    return state if state is not None and state.owner.handle() is not None else None


def clear_state(directory: Path) -> None:
    """Removes the file, if it is there."""
    (directory / _FILE_NAME).unlink(missing_ok=True)
