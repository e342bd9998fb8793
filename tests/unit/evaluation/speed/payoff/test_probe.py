from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from evaluation.speed.payoff.probe import monotone


@given(st.dictionaries(st.integers(1, 50), st.floats(0.001, 1.0), min_size=1, max_size=8))
def test_monotone_never_falls_and_keeps_the_mean(seconds: dict[int, float]) -> None:
    points = monotone(seconds).points
    values = [taken for _, taken in points]
    assert [size for size, _ in points] == sorted(seconds)
    assert all(left <= right + 1e-12 for left, right in pairwise(values))
    assert abs(sum(values) - sum(seconds.values())) < 1e-9


def test_monotone_leaves_what_rises_as_it_is() -> None:
    assert monotone({4: 2.0, 1: 1.0}).points == ((1, 1.0), (4, 2.0))
