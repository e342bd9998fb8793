"""Runs `helm` and `kubectl` against the cluster, and tells what they wrote where they fail."""

from __future__ import annotations

import subprocess


class CommandFailed(AssertionError):
    """A command ended with an error. The message is what it wrote.

    Attributes:
        exit_code: As a shell tells it.
    """

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def run(*command: str, timeout_s: float = 600.0, stdin: str = "") -> str:
    """Runs a command to its end and returns its stdout.

    Raises:
        CommandFailed: It ended with an error.
    """
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=timeout_s)
    if done.returncode:
        raise CommandFailed(f"{' '.join(command)}\n{done.stdout}{done.stderr}", done.returncode)
    return done.stdout
