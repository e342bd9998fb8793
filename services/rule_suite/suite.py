"""Runs all that a rule must pass.

Owns the order of the checks, how many examples each is given, and how a broken rule is told.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Flaky, HypothesisException

from services.rule_suite.decisions import broken_decisions, broken_threshold, sequences
from services.rule_suite.elsewhere import transcript, transcript_elsewhere
from services.rule_suite.exactness import broken_exactness, schedules
from services.rule_suite.scores import batches, broken_scores
from services.rules.chosen import THRESHOLD
from services.rules.registry import check_form
from services.rules.rule import Evidence, Rule, RuleError


class RuleBroken(AssertionError):
    """A rule breaks what every rule must keep.

    Args:
        rule: Its name.
        check: The check that it fails.
        what: How.
        example: What showed it, as small as could be found.
    """

    def __init__(self, rule: str, check: str, what: str, example: object = None) -> None:
        shown = "" if example is None else f"; for example {example}"
        super().__init__(f"rule {rule}: {check}: {what}{shown}")
        self.check = check


@dataclass(frozen=True)
class Check:
    """One thing that a rule must keep.

    Args:
        name: What is checked, in a word.
        examples: What it is tried on, of a rule.
        broken: How a rule breaks it on an example; None if it doesn't.
        applies: Whether it concerns a rule.
    """

    name: str
    examples: Callable[[Rule], st.SearchStrategy[Any]]
    broken: Callable[[Rule, Any], str | None]
    applies: Callable[[Rule], bool] = lambda rule: True


CHECKS = (
    Check("scores", batches, broken_scores, lambda rule: rule.evidence is Evidence.SLM),
    Check("decisions", sequences, broken_decisions),
    Check("threshold", sequences, broken_threshold, lambda rule: THRESHOLD in rule.parameters),
    Check("exactness", schedules, broken_exactness),
)
"""All of them, in the order in which they are made."""


def check_rule(
    rule: Rule | type[Rule],
    *,
    max_examples: int = 200,
    on_example: Callable[[str], None] = lambda name: None,
) -> tuple[str, ...]:
    """Holds a rule to what every rule must keep. The same examples are tried each time.

    Args:
        rule: The rule, or its class.
        max_examples: Of each check.
        on_example: Told the name of the check that an example is tried for.

    Returns:
        The names of the checks that it passed. "elsewhere" is among them where a rule can be sent to another process.

    Raises:
        RuleBroken: It breaks something.
    """
    made: Rule = rule() if isinstance(rule, type) else rule
    name = str(getattr(made, "name", made))
    try:
        check_form(made)
    except (RuleError, AttributeError) as error:
        raise RuleBroken(name, "form", str(error)) from error
    checks = [check for check in CHECKS if check.applies(made)]
    for check in checks:
        _run(check, made, max_examples, on_example)
    passed = tuple(check.name for check in checks)
    return (*passed, "elsewhere") if _is_same_elsewhere(made) else passed


def _is_same_elsewhere(rule: Rule) -> bool:
    """Whether another process could be asked, which decides alike."""
    try:
        here, elsewhere = transcript(rule), transcript_elsewhere(rule)
        later = transcript(rule)
    # Whatever a rule raises, it breaks with it.
    except Exception as error:
        raise RuleBroken(rule.name, "elsewhere", f"raises {type(error).__name__}: {error}") from error
    for where, other in (("later", later), ("in another process", elsewhere or here)):
        for one, another in zip(here, other, strict=True):
            if one != another:
                raise RuleBroken(rule.name, "elsewhere", f"{one}; {where}, {another}")
    return elsewhere is not None


def _run(check: Check, rule: Rule, max_examples: int, on_example: Callable[[str], None]) -> None:
    @settings(
        max_examples=max_examples,
        database=None,
        deadline=None,
        derandomize=True,
        phases=[Phase.generate, Phase.shrink],
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def holds(data: st.DataObject) -> None:
        on_example(check.name)
        example = None
        try:
            example = data.draw(check.examples(rule))
            what = check.broken(rule, example)
        except HypothesisException:
            raise
        # Whatever a rule raises, it breaks with it.
        except Exception as error:  # noqa: BLE001
            what = f"raises {type(error).__name__}: {error}"
        if what is not None:
            raise RuleBroken(rule.name, check.name, what, example)

    try:
        holds()
    except Flaky as error:
        raise RuleBroken(
            rule.name, check.name, f"the same example breaks it one time and not another: {error}"
        ) from error
