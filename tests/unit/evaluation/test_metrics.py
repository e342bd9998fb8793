import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.metrics import area_under_roc, bootstrap_ratio


def test_bootstrap_ratio_interval_holds_the_value_and_narrows_with_data() -> None:
    few = bootstrap_ratio([1, 0] * 10, [1] * 20)
    many = bootstrap_ratio([1, 0] * 1000, [1] * 2000)
    assert few.value == many.value == 0.5
    assert few.low < 0.5 < few.high
    assert many.high - many.low < (few.high - few.low) / 3


def test_bootstrap_ratio_weights_queries_by_their_denominator() -> None:
    assert bootstrap_ratio([1, 3], [10, 10]).value == pytest.approx(0.2)


def test_bootstrap_ratio_same_seed_gives_the_same_interval() -> None:
    assert bootstrap_ratio([1, 0, 1], [1, 1, 1]) == bootstrap_ratio([1, 0, 1], [1, 1, 1])


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=30))
def test_area_under_roc_equals_counting_pairs(rows: list[tuple[int, bool]]) -> None:
    positives = [score for score, positive in rows if positive]
    negatives = [score for score, positive in rows if not positive]
    if not positives or not negatives:
        return
    wins = sum((p > n) + 0.5 * (p == n) for p in positives for n in negatives)
    scores = torch.tensor([float(score) for score, _ in rows])
    expected = wins / (len(positives) * len(negatives))
    assert area_under_roc(scores, torch.tensor([positive for _, positive in rows])) == pytest.approx(expected)
