"""`trivium rules`, on the shipped rules; those of other packages are in the integration tests."""

from __future__ import annotations

import json
import sys

import pytest
from typer.testing import CliRunner

from services.cli import __main__ as command_line
from services.cli.__main__ import app
from services.cli.errors import CliError
from services.cli.rules import list as listing
from services.rules.registry import Rules
from services.rules.shipped import SHIPPED


def test_list_tells_each_rule_with_version_evidence_and_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.cli.console.out.width", 200)
    result = CliRunner().invoke(app, ["rules", "list"])
    assert result.exit_code == 0
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in result.stdout.splitlines() if "│" in line]
    assert [line[0] for line in lines if line[0]] == sorted(rule.name for rule in SHIPPED)
    assert [line[:3] for line in lines if line[0] in ("router", "entropy", "llm")] == [
        ["entropy", "1", "slm"],
        ["llm", "1", "none"],
        ["router", "1", "router"],
    ]
    described = [line[3] for line in lines]
    assert "rate, 0 to 1, default 0.1: Share of positions at which the LLM is asked." in described
    assert "seed, 0 to 4294967295, whole, default 0: Draws other positions." in described
    assert (
        "threshold, at least 0: Ask the LLM at a divergence probability of at least this; 0 asks always." in described
    )


def test_list_tells_why_a_rule_cannot_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    class Found(Rules):
        @classmethod
        def installed(cls, found: object = None) -> Rules:
            return Rules(unusable={"moody": "some-package brings it as moody:Rule: ImportError: no [rich] markup"})

    monkeypatch.setattr(listing, "Rules", Found)
    told = "some-package brings it as moody:Rule: ImportError: no [rich] markup"
    result = CliRunner().invoke(app, ["rules", "list"])
    assert f"moody can't be used: {told}" in result.stdout
    assert json.loads(CliRunner().invoke(app, ["rules", "list", "--json"]).stdout)["unusable"] == {"moody": told}


def test_list_as_json_has_no_number_that_json_cannot_write() -> None:
    result = CliRunner().invoke(app, ["rules", "list", "--json"])

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    told = json.loads(result.stdout, parse_constant=refuse)
    [router] = [rule for rule in told["rules"] if rule["name"] == "router"]
    assert router["evidence"] == "router"
    assert router["parameters"]["threshold"]["most"] is None
    assert router["parameters"]["threshold"]["default"] is None


def test_check_of_a_rule_that_passes_names_what_was_checked() -> None:
    result = CliRunner().invoke(app, ["rules", "check", "margin", "--max-examples", "5"])
    assert result.exit_code == 0, result.output
    assert (
        "rule margin 1 keeps what every rule must: scores, decisions, threshold, exactness, elsewhere"
        in result.stderr
    )
    assert "5/5" in result.stderr


def test_check_of_a_rule_that_is_not_installed_names_those_that_are() -> None:
    result = CliRunner().invoke(app, ["rules", "check", "margins"])
    assert isinstance(result.exception, CliError)
    assert str(result.exception).startswith("rule: no rule 'margins' is installed; there are entropy, llm, ")


def test_check_without_hypothesis_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [
        name for name in sys.modules if name.startswith(("services.rule_suite", "services.cli.rules.check"))
    ]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "hypothesis", None)
    monkeypatch.setattr(sys, "argv", ["trivium", "rules", "check", "entropy"])
    with pytest.raises(SystemExit) as ending:
        command_line.main()
    assert ending.value.code == 1
    assert capsys.readouterr().err == "error: this command needs 'hypothesis': pip install 'trivium[rules-testing]'\n"
