"""Tells what this machine offers for isolating programs, by trying each part alone."""

from __future__ import annotations

from dataclasses import dataclass

from evaluation.graders.isolation.memory_cgroup import NoMemoryCgroup, parent_cgroup
from evaluation.graders.sandbox import Sandbox, SandboxUnavailable


@dataclass(frozen=True)
class SandboxPart:
    """One part of the isolation.

    Attributes:
        name: What it is.
        is_there: Whether this machine offers it.
        is_needed: Whether programs are refused without it.
        detail: What it does, or why it isn't there and what that means.
    """

    name: str
    is_there: bool
    is_needed: bool
    detail: str


def sandbox_parts() -> list[SandboxPart]:
    """Tries every part; takes about a second."""
    return [_namespaces(), _filter(), _cgroup()]


def _namespaces() -> SandboxPart:
    name = "namespaces"
    try:
        Sandbox().try_parts(isolated=True, filtered=False)
    except SandboxUnavailable as error:
        meaning = "programs could read and write this user's files and see its processes"
        return SandboxPart(name, False, True, f"{error}: {meaning}")
    return SandboxPart(name, True, True, "own files, processes, network and users")


def _filter() -> SandboxPart:
    name = "system call filter"
    try:
        Sandbox().try_parts(isolated=False, filtered=True)
    except SandboxUnavailable as error:
        meaning = "programs could open sockets that leave namespaces, and hold memory that isn't counted"
        return SandboxPart(name, False, True, f"{error}: {meaning}")
    return SandboxPart(name, True, True, "no sockets, tracing, mounts, io_uring, keys, shared memory")


def _cgroup() -> SandboxPart:
    name = "memory cgroup"
    try:
        place = parent_cgroup()
    except NoMemoryCgroup as error:
        meaning = "memory is summed up ten times a second instead, and small kernel buffers are not"
        return SandboxPart(name, False, False, f"{error}: {meaning}")
    return SandboxPart(name, True, False, f"all memory is counted by the kernel, in {place}")
