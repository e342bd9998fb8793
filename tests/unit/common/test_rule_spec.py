"""How people write rules."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.rule_spec import RuleSpec

names = st.from_regex(r"[A-Za-z][A-Za-z0-9._-]*", fullmatch=True)
parameters = st.dictionaries(
    st.from_regex(r"[a-z_][a-z0-9_]*", fullmatch=True), st.floats(allow_nan=False, allow_infinity=False), max_size=3
)


@given(name=names, parameters=parameters)
def test_spec_that_is_written_reads_as_the_same(name: str, parameters: dict[str, float]) -> None:
    spec = RuleSpec(name, parameters)
    assert RuleSpec.parse(str(spec)) == spec


@given(name=names, parameters=parameters, blank=st.sampled_from(["", " ", "\t "]))
def test_spec_may_have_blanks_around_its_parts(name: str, parameters: dict[str, float], blank: str) -> None:
    values = ",".join(f"{blank}{key}{blank}={blank}{value!r}{blank}" for key, value in parameters.items())
    text = f"{blank}{name}{blank}" + (f":{values}" if values else "")
    assert RuleSpec.parse(text) == RuleSpec(name, parameters)


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        (RuleSpec("entropy"), "entropy"),
        (RuleSpec("random", {"rate": 0.2, "seed": 7}), "random:rate=0.2,seed=7"),
        (RuleSpec("random", {"seed": 4294967295.0}), "random:seed=4294967295"),
        (RuleSpec("entropy", {"threshold": 0.123456789}), "entropy:threshold=0.123456789"),
    ],
)
def test_spec_is_written_with_all_digits_and_no_more(spec: RuleSpec, text: str) -> None:
    assert str(spec) == text


@pytest.mark.parametrize(
    "text",
    [
        "", " ", ":", ":threshold=1", "entropy:", "entropy:threshold", "entropy:threshold=", "entropy:=1",
        "entropy:threshold=much", "entropy:threshold=1,", "entropy:,threshold=1", "entropy:threshold=1;seed=2",
        "random:rate=0.1,rate=0.1", "random:rate=0.1:seed=2", "entropy:threshold==1",
    ],
)  # fmt: skip
def test_notation_that_is_none_is_refused_with_what_was_read(text: str) -> None:
    with pytest.raises(ValueError, match=r"^rule: expected ") as caught:
        RuleSpec.parse(text)
    assert repr(text) in str(caught.value)


@given(text=st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        spec = RuleSpec.parse(text)
    except ValueError:
        return
    assert spec.name
