import pytest
from typer.testing import CliRunner

from evaluation.graders.sandbox_check import SandboxPart
from services.cli.__main__ import app
from services.cli.evaluate import sandbox

NAMESPACES = SandboxPart("namespaces", is_there=True, is_needed=True, detail="own files")
NO_FILTER = SandboxPart("system call filter", is_there=False, is_needed=True, detail="none for riscv64")
NO_CGROUP = SandboxPart("memory cgroup", is_there=False, is_needed=False, detail="the controller is off")


@pytest.mark.parametrize(("parts", "code"), [([NAMESPACES, NO_CGROUP], 0), ([NAMESPACES, NO_FILTER], 1)])
def test_sandbox_command_names_what_is_missing_and_fails_where_it_is_needed(
    monkeypatch: pytest.MonkeyPatch, parts: list[SandboxPart], code: int
) -> None:
    monkeypatch.setattr(sandbox, "sandbox_parts", lambda: parts)
    ended = CliRunner().invoke(app, ["evaluate", "sandbox"])
    assert ended.exit_code == code
    assert "ok       namespaces: own files" in ended.output
    assert f"missing  {parts[1].name}: {parts[1].detail}" in ended.output
    assert ("--allow-unisolated-code" in ended.output) is (code == 1)
