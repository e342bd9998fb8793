"""What hypothesis draws for the suite: values of parameters, and sequences to decode."""

from __future__ import annotations

import math

from hypothesis import strategies as st

from services.rule_suite.models import Models
from services.rule_suite.reference import Case
from services.rules.chosen import ChosenRule
from services.rules.rule import Parameter, Rule


def chosen_rules(rule: Rule) -> st.SearchStrategy[ChosenRule]:
    """A rule with any values of its parameters."""
    values = st.fixed_dictionaries({name: _values(parameter) for name, parameter in rule.parameters.items()})
    return values.map(lambda drawn: ChosenRule.of(rule, drawn))


def cases(rules: st.SearchStrategy[ChosenRule]) -> st.SearchStrategy[Case]:
    """Short sequences of models that agree always, often, or never."""
    return st.builds(
        Case,
        models=st.builds(
            Models,
            seed=st.integers(0, 2**32),
            vocab_size=st.sampled_from([3, 8, 100]),
            agreement=st.sampled_from([0.0, 0.5, 0.9, 1.0]),
            eos_rate=st.sampled_from([0.0, 0.02, 0.2]),
        ),
        prompt=st.lists(st.integers(1, 99), min_size=1, max_size=8).map(tuple),
        rule=rules,
        max_len=st.integers(9, 60),
        stop_pair=st.none() | st.tuples(st.integers(1, 3), st.integers(1, 3)),
    )


def _values(parameter: Parameter) -> st.SearchStrategy[float]:
    """The ends of the range, the default, and what is between; of a range without end, what is near its beginning."""
    least = parameter.least if math.isfinite(parameter.least) else -8.0
    near = least + 8 * max(1.0, abs(parameter.default or 0.0))
    most = parameter.most if math.isfinite(parameter.most) else max(near, parameter.default or 0.0)
    if parameter.whole:
        return st.integers(math.ceil(least), math.floor(most)).map(float)
    edges = [least, most] if parameter.default is None else [parameter.default, least, most]
    return st.sampled_from(edges) | st.floats(least, min(near, most)) | st.floats(least, most)
