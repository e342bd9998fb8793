from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from services.cli.__main__ import app
from services.cli.errors import CliError
from services.common.access.keys import Keys
from services.common.access.tenant import Tenant


def test_new_key_works_with_the_line_that_is_printed_for_the_file(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["keys", "new", "--tenant", "acme", "--expires", "2999-01-01"])
    assert result.exit_code == 0
    [key] = result.stdout.split()
    line = result.stderr.splitlines()[-1]
    assert key not in result.stderr
    path = tmp_path / "keys.yaml"
    path.write_text(f"tenants:\n  acme: {{}}\nkeys:\n{line}\n")
    found = Keys(path).tenant_of(f"Bearer {key}")
    assert isinstance(found, Tenant)
    assert found.name == "acme"
    checked = CliRunner().invoke(app, ["keys", "check", str(path)])
    assert checked.stdout == "acme: 1 keys\n"


@pytest.mark.parametrize("arguments", [["new", "--tenant", "Acme Corp"], ["check", "/none/keys.yaml"]])
def test_what_cannot_be_used_is_an_error_in_one_line(arguments: list[str]) -> None:
    result = CliRunner().invoke(app, ["keys", *arguments])
    assert isinstance(result.exception, CliError)
    assert "\n" not in str(result.exception)
