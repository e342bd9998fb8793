"""Rules of tests."""

from __future__ import annotations

from services.rules.chosen import ChosenRule
from services.rules.registry import Rules


def router_rule(threshold: float) -> ChosenRule:
    """The router's rule, as a request has it."""
    return ChosenRule.of(Rules().named("router"), {"threshold": threshold})
