import subprocess
import sys

import pytest

from services.cli import __main__ as command_line

HEAVY = {"torch", "transformers", "grpc", "numpy", "redis", "pydantic"}


def test_help_imports_nothing_heavy() -> None:
    script = (
        f"import sys; from services.cli.__main__ import app; sys.stdout.write(','.join({HEAVY!r} & set(sys.modules)))"
    )
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert loaded.stdout == ""


def test_generate_does_not_import_torch_or_transformers() -> None:
    script = (
        "import sys; import services.cli.generate, services.cli.chat, services.cli.doctor, services.cli.demo; "
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
