import platform
from pathlib import Path

import pytest

from evaluation.graders import sandbox_check
from evaluation.graders.isolation.memory_cgroup import NoMemoryCgroup
from evaluation.graders.sandbox import Sandbox, SandboxUnavailable
from evaluation.graders.sandbox_check import sandbox_parts


def test_sandbox_parts_needed_ones_are_there_where_programs_run() -> None:
    try:
        Sandbox().run({"main.py": ""}, "main.py")
    except SandboxUnavailable:
        runs = False
    else:
        runs = True
    assert all(part.is_there for part in sandbox_parts() if part.is_needed) is runs


def test_sandbox_parts_without_a_filter_names_the_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    part = next(part for part in sandbox_parts() if part.name == "system call filter")
    assert (part.is_there, part.is_needed) == (False, True)
    assert "riscv64" in part.detail


def test_sandbox_parts_without_a_cgroup_says_why_and_needs_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> Path:
        raise NoMemoryCgroup("the controller isn't on")

    monkeypatch.setattr(sandbox_check, "parent_cgroup", refuse)
    part = sandbox_parts()[-1]
    assert (part.is_there, part.is_needed) == (False, False)
    assert "the controller isn't on" in part.detail
