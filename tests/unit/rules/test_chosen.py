"""What a sequence is decoded by."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.rule_spec import RuleSpec
from services.rules.chosen import ChosenRule
from services.rules.decider import Draft, Verdict
from services.rules.rule import Evidence, RuleError
from services.rules.shipped import SHIPPED, EntropyRule, LlmRule, RandomRule, RouterRule, SlmRule


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "-1"])
def test_number_that_no_rule_can_use_is_refused_by_its_parameter(value: str) -> None:
    spec = RuleSpec.parse(f"entropy:threshold={value}")
    with pytest.raises(RuleError, match=r"^rule\.parameters\.threshold: must be finite, at least 0, got "):
        ChosenRule.of(EntropyRule(), spec.parameters)


def test_chosen_rule_has_its_defaults_and_what_was_asked_for() -> None:
    chosen = ChosenRule.of(RandomRule(), {"seed": 7})
    assert chosen.parameters == {"rate": 0.1, "seed": 7.0}
    assert chosen.threshold is None
    assert chosen.evidence is Evidence.NONE
    assert ChosenRule.of(EntropyRule()).threshold == 0.672


def test_chosen_rule_decides_by_its_own_parameters() -> None:
    chosen = ChosenRule.of(EntropyRule(), {"threshold": 0.5})
    draft = Draft(3, 1, 0.6)
    assert chosen.decider().verdict(draft) is Verdict.ASK
    assert chosen.with_threshold(0.7).decider().verdict(draft) is Verdict.ACCEPT
    assert chosen.threshold == 0.5


@pytest.mark.parametrize(
    ("chosen", "may_ask"),
    [
        (ChosenRule.of(SlmRule()), False),
        (ChosenRule.of(LlmRule()), True),
        (ChosenRule.of(RouterRule(), {"threshold": 1.0}), True),
        (ChosenRule.of(RouterRule(), {"threshold": 1.5}), False),
        (ChosenRule.of(EntropyRule(), {"threshold": 1.5}), True),
    ],
    ids=lambda value: f"{value.rule.name}-{value.threshold}" if isinstance(value, ChosenRule) else str(value),
)
def test_llm_may_be_asked_unless_the_rule_needs_none_or_no_probability_reaches_the_threshold(
    chosen: ChosenRule, may_ask: bool
) -> None:
    assert chosen.may_ask_llm is may_ask


@st.composite
def chosen_rules(draw: st.DrawFn) -> ChosenRule:
    rule = draw(st.sampled_from(SHIPPED))
    values = {
        name: draw(
            st.integers(0, 9) if parameter.whole else st.sampled_from([0.0, 0.25, math.nextafter(0.25, 1), 1.0])
        )
        for name, parameter in rule.parameters.items()
    }
    return ChosenRule.of(rule, values)


@given(one=chosen_rules(), other=chosen_rules())
def test_identity_differs_where_rule_or_parameters_do(one: ChosenRule, other: ChosenRule) -> None:
    are_same = (one.rule.name, one.parameters) == (other.rule.name, other.parameters)
    assert (one.identity() == other.identity()) is are_same


def test_identity_differs_with_the_version() -> None:
    class Newer(EntropyRule):
        version = "2"

    assert ChosenRule.of(Newer()).identity() != ChosenRule.of(EntropyRule()).identity()


def test_identity_does_not_depend_on_the_order_of_parameters() -> None:
    one, other = ({"rate": 0.5, "seed": 3.0}, {"seed": 3.0, "rate": 0.5})
    assert ChosenRule(RandomRule(), one).identity() == ChosenRule(RandomRule(), other).identity()
