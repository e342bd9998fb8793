"""Where a group can be made, and what is written there. A folder stands for the kernel's where none can be made."""

import subprocess
import sys
from pathlib import Path

import pytest

from evaluation.graders.isolation import memory_cgroup
from evaluation.graders.isolation.memory_cgroup import (
    MemoryCgroup,
    NoMemoryCgroup,
    candidates,
    created,
    parent_cgroup,
)

MOUNT = "30 23 0:26 {root} /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
OTHERS = "22 1 0:21 / / rw - ext4 /dev/vda rw\n31 23 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"


def can_make() -> bool:
    try:
        parent_cgroup()
    except NoMemoryCgroup:
        return False
    return True


@pytest.mark.parametrize(
    ("root", "membership", "expected"),
    [
        ("/", "0::/user.slice/app.scope\n", ["user.slice/app.scope", "user.slice"]),
        ("/", "4:memory:/x\n0::/\n", [""]),
        ("/box", "0::/box/inner\n", ["inner", ""]),
        ("/box", "0::/elsewhere\n", []),
        ("/", "0::/../beside\n", []),
        ("/", "4:memory:/x\n", []),
    ],
    ids=["systemd", "root", "bound", "outside the mount", "outside the namespace", "first version"],
)
def test_candidates_are_the_own_group_and_the_one_above(root: str, membership: str, expected: list[str]) -> None:
    found = candidates(OTHERS + MOUNT.format(root=root), membership)
    assert found == [Path("/sys/fs/cgroup", inside) for inside in expected]


def test_candidates_without_the_second_version_are_none() -> None:
    assert candidates(OTHERS, "0::/\n") == []


def fake_group(path: Path) -> MemoryCgroup:
    path.mkdir()
    return MemoryCgroup(path)


@pytest.mark.parametrize(("events", "exhausted"), [("oom 3\noom_kill 0\n", False), ("max 9\noom_kill 2\n", True)])
def test_was_exhausted_is_what_the_kernel_killed(tmp_path: Path, events: str, exhausted: bool) -> None:
    group = fake_group(tmp_path / "group")
    (group.path / "memory.events").write_text("low 0\n" + events)
    assert group.was_exhausted is exhausted


def test_created_sets_limits_and_ends_the_group_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_cgroup, "_REMOVAL_ATTEMPTS", 1)
    with created(tmp_path, memory_bytes=2**30, num_processes=35) as group:
        assert group.path.parent == tmp_path
        for name in ("memory.swap.max", "pids.max", "cgroup.kill"):
            assert not (group.path / name).exists()
            (group.path / name).touch()
        assert (group.path / "memory.max").read_text() == str(2**30)
        assert (group.path / "memory.oom.group").read_text() == "1"
    assert (group.path / "cgroup.kill").read_text() == "1"


def test_created_makes_a_folder_for_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_cgroup, "_REMOVAL_ATTEMPTS", 1)
    with created(tmp_path, 1, 1) as one, created(tmp_path, 1, 1) as other:
        assert one.path != other.path


@pytest.mark.skipif(not can_make(), reason="no memory cgroup can be made here")
def test_group_of_the_kernel_ends_what_needs_more_and_is_removed() -> None:
    with created(parent_cgroup(), memory_bytes=2**26, num_processes=8) as group:
        program = f"open({str(group.path / 'cgroup.procs')!r}, 'w').write('0')\nbytearray(2**28)"
        assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -9
        assert group.was_exhausted
    assert not group.path.exists()
