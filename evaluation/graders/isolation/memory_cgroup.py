"""Memory cgroups (version 2): the kernel counts all memory of a group of processes, whatever kind it is.

Owns where a group can be made, its limits, whether it ran into them, and its removal. A group is made below this
process's own, or beside it: where the memory controller is on, and this user may write (as root, or in what systemd
gives to a user). The first version of cgroups isn't used.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_REMOVAL_ATTEMPTS, _REMOVAL_INTERVAL_S = 50, 0.02
_numbers = itertools.count()


class NoMemoryCgroup(Exception):
    """None can be made here. The message says why."""


@dataclass(frozen=True)
class MemoryCgroup:
    """One group.

    Attributes:
        path: Its folder; a process that writes "0" to `cgroup.procs` there joins it.
    """

    path: Path

    @property
    def was_exhausted(self) -> bool:
        """Whether the kernel ended the group because it needed more memory than it may have."""
        events = (line.split() for line in (self.path / "memory.events").read_text().splitlines())
        return any(name == "oom_kill" and count != "0" for name, count in events)


def candidates(mountinfo: str, membership: str) -> list[Path]:
    """Folders in which a group might be made.

    Args:
        mountinfo: Text of `/proc/self/mountinfo`.
        membership: Text of `/proc/self/cgroup`.

    Returns:
        This process's own group, then the one above it, as far as they are mounted here.
    """
    mounts = [before.split() for before, after in _mounts(mountinfo) if after.split()[0] == "cgroup2"]
    own = [line.removeprefix("0::") for line in membership.splitlines() if line.startswith("0::")]
    if not mounts or not own:
        return []
    root, mounted_at = mounts[0][3], Path(mounts[0][4])
    try:
        inside = Path(own[0]).relative_to(root)
    except ValueError:
        return []
    # `..` stands for groups outside of what is visible here.
    if ".." in inside.parts:
        return []
    path = mounted_at / inside
    return [path] if path == mounted_at else [path, path.parent]


def _mounts(mountinfo: str) -> Iterator[tuple[str, str]]:
    for line in mountinfo.splitlines():
        before, found, after = line.partition(" - ")
        if found:
            yield before, after


@functools.cache
def parent_cgroup() -> Path:
    """The folder in which groups can be made, found by making one and moving a process there.

    Raises:
        NoMemoryCgroup: Nowhere.
    """
    reasons = []
    try:
        places = candidates(Path("/proc/self/mountinfo").read_text(), Path("/proc/self/cgroup").read_text())
    except OSError as error:
        raise NoMemoryCgroup(f"cgroups can't be read: {error}") from error
    for place in places:
        try:
            if "memory" not in (place / "cgroup.subtree_control").read_text().split():
                reasons.append(f"the memory controller isn't on in {place}")
                continue
            _try(place)
        except OSError as error:
            reasons.append(str(error))
        else:
            return place
    raise NoMemoryCgroup("; ".join(reasons) or "no cgroups of version 2 are mounted")


def _try(place: Path) -> None:
    with created(place, memory_bytes=2**28, num_processes=8) as group:
        command = [sys.executable, "-I", "-S", "-c", "input()"]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        try:
            (group.path / "cgroup.procs").write_text(str(process.pid))
        finally:
            process.kill()
            process.communicate()


@contextlib.contextmanager
def created(parent: Path, memory_bytes: int, num_processes: int) -> Iterator[MemoryCgroup]:
    """A new group, without processes; whatever is in it in the end is killed, and it is removed.

    Args:
        parent: Folder in which it is made.
        memory_bytes: What it may hold, without swap; where it needs more, all of its processes are killed.
        num_processes: Processes and threads, limited where that controller is on.

    Raises:
        OSError: It can't be made.
    """
    path = parent / f"trivium-sandbox-{os.getpid()}-{next(_numbers)}"
    path.mkdir()
    try:
        (path / "memory.max").write_text(str(memory_bytes))
        (path / "memory.oom.group").write_text("1")
        for name, value in (("memory.swap.max", "0"), ("pids.max", str(num_processes))):
            if (path / name).exists():
                (path / name).write_text(value)
        yield MemoryCgroup(path)
    finally:
        _remove(path)


def _remove(path: Path) -> None:
    if (path / "cgroup.kill").exists():
        (path / "cgroup.kill").write_text("1")
    for _ in range(_REMOVAL_ATTEMPTS):
        try:
            path.rmdir()
        except OSError:
            # Busy until the kernel has buried the last process.
            time.sleep(_REMOVAL_INTERVAL_S)
        else:
            return
