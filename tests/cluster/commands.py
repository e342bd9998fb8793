"""Runs `helm` and `kubectl` against the cluster, and tells what they wrote where they fail."""

from __future__ import annotations

import shutil
import subprocess

import pytest


class CommandFailed(AssertionError):
    """A command ended with an error. The message is what it wrote."""


def find_binary(name: str, given: str | None = None) -> str:
    """The path of a binary; skips the test where there is none."""
    found = given or shutil.which(name)
    if found is None:
        pytest.skip(f"{name} isn't on PATH: tests on a cluster need it")
    return found


def run(*command: str, timeout_s: float = 600.0, stdin: str = "") -> str:
    """Runs a command to its end and returns its stdout.

    Raises:
        CommandFailed: It ended with an error.
    """
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=timeout_s)
    if done.returncode:
        raise CommandFailed(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return done.stdout
