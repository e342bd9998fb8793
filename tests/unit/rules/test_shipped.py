"""What the shipped rules score and decide."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from services.rules.decider import Draft, Verdict
from services.rules.rule import DraftRows, Rule, RuleError, resolve_parameters
from services.rules.shipped import EntropyRule, LlmRule, LosslessRule, MarginRule, RandomRule, RouterRule, SlmRule

SCORING = [EntropyRule(), MarginRule()]


def rows_of(logits: list[list[float]]) -> DraftRows:
    top_logits = -np.sort(-np.array(logits, dtype=np.float32), axis=-1)
    return DraftRows(top_logits, np.zeros(len(logits), dtype=np.int64))


def softmax(logits: list[float]) -> NDArray[np.float64]:
    weights = np.exp(np.array(logits, dtype=np.float32).astype(np.float64) - max(logits))
    return np.asarray(weights / weights.sum())


logit_rows = st.lists(st.lists(st.floats(-1e4, 1e4, width=32), min_size=100, max_size=100), min_size=1, max_size=5)


@given(logits=logit_rows)
def test_entropy_is_that_of_the_softmax_in_nats(logits: list[list[float]]) -> None:
    scores = EntropyRule().scores(rows_of(logits))
    for score, row in zip(scores, logits, strict=True):
        p = softmax(row)
        assert score == pytest.approx(-sum(x * math.log(x) for x in p if x > 0), abs=1e-5)
        assert 0 <= score <= math.log(100) + 1e-5


@given(logits=logit_rows)
def test_margin_is_one_less_the_distance_of_the_two_likeliest(logits: list[list[float]]) -> None:
    scores = MarginRule().scores(rows_of(logits))
    for score, row in zip(scores, logits, strict=True):
        second, first = sorted(softmax(row))[-2:]
        assert score == pytest.approx(1 - (first - second), abs=1e-6)


@pytest.mark.parametrize("rule", SCORING, ids=lambda rule: rule.name)
@given(logits=logit_rows)
def test_score_of_a_row_is_the_same_alone_and_in_any_batch(
    rule: EntropyRule | MarginRule, logits: list[list[float]]
) -> None:
    together = rule.scores(rows_of(logits))
    backwards = rule.scores(rows_of(logits[::-1]))[::-1]
    alone = [rule.scores(rows_of([row]))[0] for row in logits]
    assert together.dtype == np.float32
    assert together.tolist() == backwards.tolist() == alone


@pytest.mark.parametrize("rule", [RouterRule(), *SCORING], ids=lambda rule: rule.name)
def test_threshold_itself_is_routed_and_what_is_below_stands(rule: RouterRule | EntropyRule | MarginRule) -> None:
    decider = rule.decider({"threshold": 0.5})
    assert decider.verdict(Draft(3, 1, 0.5)) is Verdict.ASK
    assert decider.verdict(Draft(3, 1, np.nextafter(0.5, 0.0))) is Verdict.ACCEPT
    assert rule.decider({"threshold": 0.0}).verdict(Draft(3, 1, 0.0)) is Verdict.ASK


def test_ends_of_the_scale_decide_alike_about_every_draft() -> None:
    draft = Draft(3, 1, 0.0)
    assert SlmRule().decider({}).verdict(draft) is Verdict.ACCEPT
    assert LlmRule().decider({}).verdict(draft) is Verdict.ASK
    assert LosslessRule().decider({}).verdict(draft) is Verdict.CONFIRM
    assert not SlmRule.needs_llm


@given(seed=st.integers(0, 2**32 - 1), position=st.integers(0, 2**31))
def test_random_depends_on_seed_and_position_alone(seed: int, position: int) -> None:
    deciders = [RandomRule().decider({"rate": 0.5, "seed": seed}) for _ in range(2)]
    verdicts = {decider.verdict(Draft(position, token, token / 7)) for decider in deciders for token in (1, 2)}
    assert len(verdicts) == 1


def test_random_asks_at_its_rate_and_otherwise_with_another_seed() -> None:
    def asked(rate: float, seed: int) -> list[bool]:
        decider = RandomRule().decider({"rate": rate, "seed": seed})
        return [decider.verdict(Draft(position, 1, 0.0)) is Verdict.ASK for position in range(10_000)]

    assert 2_800 < sum(asked(0.3, 1)) < 3_200
    assert asked(0.3, 1) != asked(0.3, 2)
    assert not any(asked(0.0, 1))
    assert all(asked(1.0, 1))


@pytest.mark.parametrize(
    ("rule", "asked", "message"),
    [
        (RandomRule(), {"rat": 0.5}, "rule.parameters.rat: random has no such parameter; it has rate, seed"),
        (RandomRule(), {"rate": math.nan}, "rule.parameters.rate: must be finite, at least 0 and at most 1, got nan"),
        (RandomRule(), {"rate": 1.01}, "rule.parameters.rate: must be finite, at least 0 and at most 1, got 1.01"),
        (RandomRule(), {"seed": 0.5}, "rule.parameters.seed: must be a whole number, got 0.5"),
        (EntropyRule(), {"threshold": -1.0}, "rule.parameters.threshold: must be finite, at least 0, got -1"),
        (EntropyRule(), {"threshold": math.inf}, "rule.parameters.threshold: must be finite, at least 0, got inf"),
        (RouterRule(), {}, "rule.parameters.threshold: router needs it"),
        (SlmRule(), {"threshold": 1.0}, "rule.parameters.threshold: slm has no such parameter; it has none"),
    ],
)
def test_parameters_that_make_no_sense_are_refused_by_name(rule: Rule, asked: dict[str, float], message: str) -> None:
    with pytest.raises(RuleError) as caught:
        resolve_parameters(rule, asked)
    assert str(caught.value) == message


def test_parameters_that_are_not_named_have_their_defaults() -> None:
    assert resolve_parameters(RandomRule(), {"rate": 0.25}) == {"rate": 0.25, "seed": 0.0}
