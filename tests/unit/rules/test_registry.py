"""Which rules are found, and what becomes of those that can't be used."""

from __future__ import annotations

import math
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from services.rules.registry import GROUP, Rules
from services.rules.rule import Parameter, RuleError
from services.rules.shipped import SHIPPED, EntropyRule

SHIPPED_NAMES = sorted(rule.name for rule in SHIPPED)


class Impatient(EntropyRule):
    name = "impatient"


def changed(**attributes: Any) -> Any:
    return type("Changed", (Impatient,), attributes)()


def with_parameter(**changes: Any) -> Any:
    values = {"description": "Something.", "default": 0.5, **changes}
    return changed(parameters={"share": Parameter(**values)})


class Raising(Impatient):
    def __init__(self) -> None:
        raise RuntimeError("no\nGPU")


class Leaving(Impatient):
    def __init__(self) -> None:
        sys.exit(3)


@pytest.fixture
def point(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes an entry point that names an object."""

    def make(name: str, value: object) -> EntryPoint:
        module = ModuleType(f"brought_by_{name}")
        module.rule = value  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, module.__name__, module)
        return EntryPoint(name, f"{module.__name__}:rule", GROUP)

    return make


def install(folder: Path, package: str, entry_points: str, **modules: str) -> None:
    """Writes an installed package, as an installer leaves it."""
    information = folder / f"{package.replace('-', '_')}-1.0.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(entry_points)
    for name, source in modules.items():
        (folder / f"{name}.py").write_text(source)


def test_installed_rules_are_the_shipped_ones_by_name() -> None:
    rules = Rules.installed([])
    assert [rule.name for rule in rules] == SHIPPED_NAMES
    assert rules.named("entropy") is SHIPPED[1]
    assert not rules.unusable


@pytest.mark.parametrize("brought", [Impatient, Impatient()], ids=["class", "object"])
def test_entry_point_brings_a_rule(point: Any, brought: object) -> None:
    rules = Rules.installed([point("impatient", brought)])
    assert rules.named("impatient").name == "impatient"
    assert [rule.name for rule in rules] == sorted([*SHIPPED_NAMES, "impatient"])


def test_rule_that_is_not_installed_is_refused_with_those_that_are() -> None:
    with pytest.raises(
        RuleError, match=f"^rule: no rule 'entropi' is installed; there are {', '.join(SHIPPED_NAMES)}$"
    ):
        Rules.installed([]).named("entropi")


@pytest.mark.parametrize(
    ("brought", "reason"),
    [
        (Raising, "RuntimeError: no GPU"),
        (Leaving, "SystemExit: 3"),
        (EntropyRule, "name: it calls itself 'entropy'"),
        (
            changed(name="im patient"),
            "name: expected letters, digits, '.', '_' and '-', a letter first, got 'im patient'",
        ),
        (changed(name=7), "name: expected letters"),
        (changed(version=""), "version: expected a printable text that isn't empty, got ''"),
        (changed(version=1), "version: expected a printable text that isn't empty, got 1"),
        (changed(version="1\0"), "version: expected a printable text that isn't empty"),
        (changed(evidence="slm"), "evidence: expected one of services.rules.rule.Evidence, got 'slm'"),
        (changed(needs_llm=1), "needs_llm: expected True or False, got 1"),
        (changed(parameters=["threshold"]), "parameters: expected a mapping of names"),
        (changed(parameters={"a b": Parameter("Some.", 1.0)}), "parameters: expected names that are identifiers"),
        (changed(parameters={"share": 0.5}), "parameters.share: expected a services.rules.rule.Parameter, got 0.5"),
        (with_parameter(description=""), "parameters.share: expected a description"),
        (with_parameter(default="half"), "parameters.share: expected numbers, and least <= most"),
        (with_parameter(least=2.0, most=1.0), "parameters.share: expected numbers, and least <= most"),
        (with_parameter(least=math.nan), "parameters.share: expected numbers, and least <= most"),
        (
            with_parameter(default=2.0, most=1.0),
            "rule.parameters.share: must be finite, at least 0 and at most 1, got 2",
        ),
        (with_parameter(default=math.nan), "rule.parameters.share: must be finite, at least 0, got nan"),
        (with_parameter(default=0.5, whole=True), "rule.parameters.share: must be a whole number, got 0.5"),
        (changed(decider=None), "decider, scores: expected methods"),
        (changed(scores=None), "decider, scores: expected methods"),
        (object(), "AttributeError: 'object' object has no attribute 'name'"),
        (None, "AttributeError: 'NoneType' object has no attribute 'name'"),
    ],
)
def test_rule_that_cannot_be_used_costs_itself_alone_and_says_why(point: Any, brought: object, reason: str) -> None:
    rules = Rules.installed([point("impatient", brought), point("patient", changed(name="patient"))])
    assert [rule.name for rule in rules] == sorted([*SHIPPED_NAMES, "patient"])
    assert list(rules.unusable) == ["impatient"]
    with pytest.raises(RuleError) as caught:
        rules.named("impatient")
    message = str(caught.value)
    assert message.startswith(
        "rule: 'impatient' can't be used: an unknown package brings it as brought_by_impatient:rule"
    )
    assert reason in message
    assert "\n" not in message


def test_rule_with_the_name_of_a_shipped_one_does_not_take_its_place(point: Any) -> None:
    rules = Rules.installed([point("entropy", changed(name="entropy"))])
    assert rules.named("entropy") is SHIPPED[1]
    assert rules.unusable["entropy"].endswith("RuleError: another rule is called 'entropy'")


def test_packages_are_found_by_their_entry_points_and_named_where_they_break(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rule = "from services.rules.shipped import EntropyRule\nclass Rule(EntropyRule):\n    name = {!r}\n"
    install(tmp_path, "good", "[trivium.rules]\nfound = found_rule:Rule\n", found_rule=rule.format("found"))
    install(tmp_path, "gone", "[trivium.rules]\nlost = no_such_module_of_a_rule:Rule\n")
    install(tmp_path, "torn", "[trivium.rules]\nthis is no entry point\n")
    install(tmp_path, "odd", "[trivium.rules]\nodd = a b c\n")
    monkeypatch.syspath_prepend(tmp_path)
    rules = Rules.installed()
    assert rules.named("found").name == "found"
    assert rules.unusable["lost"] == (
        "gone brings it as no_such_module_of_a_rule:Rule: "
        "ModuleNotFoundError: No module named 'no_such_module_of_a_rule'"
    )
    assert rules.unusable["torn"].startswith("its entry points can't be read: ")
    assert rules.unusable["odd"].startswith("odd brings it as a b c: ")
    assert {rule.name for rule in rules} >= set(SHIPPED_NAMES)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["as on the path", "the other way round"])
def test_of_two_packages_with_one_name_the_first_by_name_is_taken_in_any_order_of_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: tuple[int, int]
) -> None:
    source = (
        "from services.rules.shipped import EntropyRule\nclass Rule(EntropyRule):\n    name, version = 'twin', {!r}\n"
    )
    for package in ("alpha", "beta"):
        module = f"twin_of_{package}"
        install(
            tmp_path / package,
            package,
            f"[trivium.rules]\ntwin = {module}:Rule\n",
            **{module: source.format(package)},
        )
    for index in order:
        monkeypatch.syspath_prepend(tmp_path / ("alpha", "beta")[index])
    rules = Rules.installed()
    assert rules.named("twin").version == "alpha"
    assert rules.unusable["twin"] == "beta brings it as twin_of_beta:Rule: RuleError: another rule is called 'twin'"
