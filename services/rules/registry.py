"""The rules that are installed: those that come with Trivium, and those of other packages.

A package adds a rule by an entry point of the group `trivium.rules`, which names an object or a class without
arguments that is a `Rule`:

    [project.entry-points."trivium.rules"]
    impatient = "my_package.rules:Impatient"

One that can't be used costs itself alone, and says why to who asks for it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import EntryPoint, distributions
from types import MappingProxyType

from services.rules.rule import Evidence, Parameter, Rule, RuleError, resolve_parameters
from services.rules.shipped import SHIPPED

GROUP = "trivium.rules"
"""Of entry points."""

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9._-]*")


class Rules:
    """Rules by their names.

    Args:
        rules: Those that can be used.
        unusable: Why others can't, by name.
    """

    def __init__(self, rules: Iterable[Rule] = SHIPPED, unusable: Mapping[str, str] | None = None) -> None:
        self._rules = {rule.name: rule for rule in rules}
        self._unusable = dict(unusable or {})

    @classmethod
    def installed(cls, found: Iterable[EntryPoint] | None = None) -> Rules:
        """The shipped rules, and those that other packages bring.

        Args:
            found: Entry points to look at; None for those of the installed packages.
        """
        rules: dict[str, Rule] = {rule.name: rule for rule in SHIPPED}
        unusable: dict[str, str] = {}
        points = _entry_points(unusable) if found is None else found
        # Of two rules of one name, every process has to take the same.
        for point in sorted(points, key=lambda point: (point.name, _package(point), point.value)):
            try:
                rule = _load(point)
                if rule.name in rules:
                    raise RuleError(f"another rule is called {rule.name!r}")
                rules[rule.name] = rule
            # Whatever a package does when it is imported, it must not end the server.
            except (Exception, SystemExit) as error:  # noqa: BLE001
                reason = f"{_package(point)} brings it as {point.value}: {_told(error)}"
                unusable.setdefault(point.name, reason)
        return cls(rules.values(), unusable)

    @property
    def unusable(self) -> Mapping[str, str]:
        """Why rules that are installed can't be used, in one line each, by name."""
        return MappingProxyType(self._unusable)

    def __iter__(self) -> Iterator[Rule]:
        """All that can be used, by name."""
        return iter(rule for _, rule in sorted(self._rules.items()))

    def named(self, name: str) -> Rule:
        """Finds a rule.

        Raises:
            RuleError: There is none of that name, or it can't be used.
        """
        if rule := self._rules.get(name):
            return rule
        if reason := self._unusable.get(name):
            raise RuleError(f"rule: {name!r} can't be used: {reason}")
        raise RuleError(f"rule: no rule {name!r} is installed; there are {', '.join(sorted(self._rules))}")


def check_form(rule: Rule) -> None:
    """Checks what a rule says of itself.

    Raises:
        RuleError: Something is missing, or not what `Rule` says. The message begins with its name.
    """
    if not (isinstance(rule.name, str) and _NAME.fullmatch(rule.name)):
        raise RuleError(f"name: expected letters, digits, '.', '_' and '-', a letter first, got {rule.name!r}")
    if not (isinstance(rule.version, str) and rule.version and rule.version.isprintable()):
        raise RuleError(f"version: expected a printable text that isn't empty, got {rule.version!r}")
    if not isinstance(rule.evidence, Evidence):
        raise RuleError(f"evidence: expected one of services.rules.rule.Evidence, got {rule.evidence!r}")
    if not isinstance(rule.needs_llm, bool):
        raise RuleError(f"needs_llm: expected True or False, got {rule.needs_llm!r}")
    if not isinstance(rule.parameters, Mapping):
        raise RuleError("parameters: expected a mapping of names to services.rules.rule.Parameter")
    for name, parameter in rule.parameters.items():
        _check_parameter(name, parameter)
    without_default = {
        name: parameter.least for name, parameter in rule.parameters.items() if parameter.default is None
    }
    resolve_parameters(rule, without_default)
    if not (callable(rule.decider) and callable(rule.scores)):
        raise RuleError("decider, scores: expected methods")


def _check_parameter(name: str, parameter: Parameter) -> None:
    if not (isinstance(name, str) and name.isidentifier()):
        raise RuleError(f"parameters: expected names that are identifiers, got {name!r}")
    if not isinstance(parameter, Parameter):
        raise RuleError(f"parameters.{name}: expected a services.rules.rule.Parameter, got {parameter!r}")
    if not (isinstance(parameter.description, str) and parameter.description):
        raise RuleError(f"parameters.{name}: expected a description")
    numbers = (parameter.least, parameter.most, 0.0 if parameter.default is None else parameter.default)
    # Written so that NaN fails it.
    if not (all(isinstance(number, (int, float)) for number in numbers) and parameter.least <= parameter.most):
        raise RuleError(f"parameters.{name}: expected numbers, and least <= most, got {parameter!r}")


def _load(point: EntryPoint) -> Rule:
    loaded = point.load()
    rule: Rule = loaded() if isinstance(loaded, type) else loaded
    check_form(rule)
    if rule.name != point.name:
        raise RuleError(f"name: it calls itself {rule.name!r}")
    return rule


def _entry_points(unusable: dict[str, str]) -> list[EntryPoint]:
    """Of all packages that can be read; `importlib.metadata.entry_points` fails with the first that can't."""
    points: list[EntryPoint] = []
    seen: set[str] = set()
    for distribution in distributions():
        name = str(distribution.name)
        # Of two of one name, the first on the path is the one that is imported.
        if (key := re.sub(r"[-_.]+", "-", name).lower()) in seen:
            continue
        seen.add(key)
        try:
            points += distribution.entry_points.select(group=GROUP)
        # A damaged file raises what it happens to.
        except Exception as error:  # noqa: BLE001
            unusable[name] = f"its entry points can't be read: {_told(error)}"
    return points


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist else "an unknown package"


def _told(error: BaseException) -> str:
    """In one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())
