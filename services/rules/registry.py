"""The rules that are installed: those that come with Trivium, and those of other packages.

A package adds a rule by an entry point of the group `trivium.rules`, which names an object or a class without
arguments that is a `Rule`:

    [project.entry-points."trivium.rules"]
    impatient = "my_package.rules:Impatient"

One that can't be used costs itself alone, and says why to who asks for it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points

from services.rules.rule import Evidence, Parameter, Rule, RuleError
from services.rules.shipped import SHIPPED

GROUP = "trivium.rules"
"""Of entry points."""

logger = logging.getLogger(__name__)


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
        for point in entry_points(group=GROUP) if found is None else found:
            try:
                rule = _load(point)
                if rule.name in rules:
                    raise RuleError(f"another rule is called {rule.name!r}")
                rules[rule.name] = rule
            # Whatever a package does when it is imported, it must not end the server.
            except Exception as error:  # noqa: BLE001
                package = point.dist.name if point.dist else "an unknown package"
                reason = f"{package} brings it as {point.value}: {type(error).__name__}: {error}"
                logger.warning("rule %s can't be used: %s", point.name, reason)
                unusable.setdefault(point.name, reason)
        return cls(rules.values(), unusable)

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


def _load(point: EntryPoint) -> Rule:
    loaded = point.load()
    rule: Rule = loaded() if isinstance(loaded, type) else loaded
    if rule.name != point.name:
        raise RuleError(f"name: it calls itself {rule.name!r}")
    if not (isinstance(rule.version, str) and rule.version):
        raise RuleError("version: expected a text that isn't empty")
    if not isinstance(rule.evidence, Evidence):
        raise RuleError(f"evidence: expected one of services.rules.rule.Evidence, got {rule.evidence!r}")
    if not isinstance(rule.needs_llm, bool):
        raise RuleError(f"needs_llm: expected True or False, got {rule.needs_llm!r}")
    if not all(isinstance(parameter, Parameter) for parameter in rule.parameters.values()):
        raise RuleError("parameters: expected a mapping of names to services.rules.rule.Parameter")
    if not (callable(rule.decider) and callable(rule.scores)):
        raise RuleError("decider, scores: expected methods")
    return rule
