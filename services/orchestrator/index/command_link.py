"""What the prefix index needs of a connection to Redis: `redis_link` has the real one, tests may have others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

Command = tuple[bytes | str | int, ...]


@dataclass(frozen=True, slots=True)
class Refused:
    """An error that a command has for a reply, though Redis can be used: what it met there isn't what it expects."""


class CommandLink(Protocol):
    """Runs commands. No method raises, whatever Redis does."""

    @property
    def available(self) -> bool:
        """True while Redis can be used."""

    @property
    def problem(self) -> str:
        """Why it can't be used, in a few words; empty while it can."""

    @property
    def num_commands(self) -> int:
        """Round trips since the start, probes not counted."""

    @property
    def num_failures(self) -> int:
        """Times that Redis was found unavailable, if only for one command."""

    async def start(self) -> None:
        """Connects."""

    async def close(self) -> None:
        """Disconnects; there are no replies from now on."""

    async def run(self, *command: bytes | str | int) -> Any:
        """Runs a command that a request waits for, so not for longer than the timeout.

        Returns:
            The reply as Redis gives it; `Refused` for an error; None without a reply. Whether the command was carried
            out is unknown then.
        """

    async def run_all(self, commands: Sequence[Command]) -> Sequence[Any]:
        """Runs commands that nothing waits for, in order, in as few round trips as are sensible.

        Returns:
            What `run` returns, for each of them.
        """
