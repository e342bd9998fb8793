import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from services.cli import __main__ as command_line

ROOT = Path(__file__).parents[3]
HEAVY = {"torch", "transformers", "grpc", "numpy", "redis", "pydantic"}


def test_help_imports_nothing_heavy() -> None:
    script = (
        f"import sys; from services.cli.__main__ import app; sys.stdout.write(','.join({HEAVY!r} & set(sys.modules)))"
    )
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert loaded.stdout == ""


def test_generate_does_not_import_torch_or_transformers() -> None:
    script = (
        "import sys; from services.cli.ask import chat, demo, generate; from services.cli.doctor import doctor; "
        "sys.stdout.write(','.join({'torch', 'transformers'} & set(sys.modules)))"
    )
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert loaded.stdout == ""


def test_main_error_is_one_line_on_stderr_and_exit_code_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["trivium", "up", "--pair", "refrence"])
    with pytest.raises(SystemExit) as ending:
        command_line.main()
    assert ending.value.code == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: no pair 'refrence'")
    assert printed.err.count("\n") == 1


@pytest.mark.parametrize("arguments", [["evaluate", "report"], ["label", "all", "--out", "there"]], ids=" ".join)
def test_main_without_the_learning_extra_names_it(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [
        name for name in sys.modules if name.startswith(("pyarrow", "evaluation", "labeler_jobs", "services.cli."))
    ]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setattr(sys, "argv", ["trivium", *arguments])
    with pytest.raises(SystemExit) as ending:
        command_line.main()
    assert ending.value.code == 1
    assert "pip install 'trivium[learning]'" in capsys.readouterr().err


def test_submit_without_the_kubernetes_extra_names_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.startswith(("labeler_jobs.jobs", "services.cli.label.submit"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "kubernetes", None)
    monkeypatch.setattr(sys, "argv", ["trivium", "label", "submit", "--out", "there"])
    with pytest.raises(SystemExit) as ending:
        command_line.main()
    assert ending.value.code == 1
    assert "pip install 'trivium[kubernetes]'" in capsys.readouterr().err


def test_submit_imports_neither_torch_nor_pyarrow() -> None:
    script = (
        "import sys; import services.cli.label.submit; "
        "sys.stdout.write(','.join({'torch', 'transformers', 'pyarrow', 'grpc'} & set(sys.modules)))"
    )
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert loaded.stdout == ""


def test_extras_bring_what_commands_ask_for() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    brought = {
        re.split(r"[=<>]", requirement)[0].replace("-", "_"): "learning" if extra == "labeling" else extra
        for extra in ("engines", "labeling", "learning", "kubernetes", "rules-testing")
        for requirement in extras[extra]
        if not requirement.startswith("trivium")
    }
    assert brought == command_line.EXTRAS
