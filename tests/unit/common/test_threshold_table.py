import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from services.common.threshold_table import SLM_ONLY_THRESHOLD, threshold_for, usage_points

TABLE = [(0.9, 0.05), (0.5, 0.1), (0.1, 0.4)]


@pytest.mark.parametrize(
    ("target", "threshold"),
    [
        (0.0, SLM_ONLY_THRESHOLD),
        (0.025, 0.95),
        (0.05, 0.9),
        (0.075, 0.7),
        (0.1, 0.5),
        (0.25, 0.3),
        (0.7, 0.05),
        (1.0, 0.0),
    ],
)
def test_threshold_for_interpolates_between_rows_and_to_both_ends(target: float, threshold: float) -> None:
    assert threshold_for(TABLE, target) == pytest.approx(threshold)


def test_threshold_for_rows_in_any_order_is_the_same() -> None:
    assert threshold_for(TABLE[::-1], 0.2) == threshold_for(TABLE, 0.2)


def test_threshold_for_measure_that_rises_with_the_threshold_counts_the_larger() -> None:
    assert threshold_for([(0.9, 0.2), (0.5, 0.15), (0.1, 0.4)], 0.18) == pytest.approx(0.91)
    assert threshold_for([(0.9, 0.2), (0.5, 0.15), (0.1, 0.4)], 0.3) == pytest.approx(0.3)


def test_threshold_for_slm_only_is_above_every_probability() -> None:
    assert struct.unpack("<f", struct.pack("<f", SLM_ONLY_THRESHOLD))[0] == SLM_ONLY_THRESHOLD > 1.0


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), max_size=6), st.floats(0, 1), st.floats(0, 1))
@example([(0.25, 5e-324)], 0.5, 5e-324)
def test_threshold_for_falls_as_the_target_rises(points: list[tuple[float, float]], one: float, other: float) -> None:
    lower, higher = sorted((one, other))
    assert threshold_for(points, lower) >= threshold_for(points, higher) >= 0.0


@given(st.floats(0, 1))
def test_threshold_for_is_a_float32(target: float) -> None:
    threshold = threshold_for(TABLE, target)
    assert struct.unpack("<f", struct.pack("<f", threshold))[0] == threshold


def test_usage_points_without_a_measurement_while_decoding_are_those_of_labelled_tokens() -> None:
    assert usage_points([(0.5, 0.1, None), (0.2, 0.3, None)]) == [(0.5, 0.1), (0.2, 0.3)]


def test_usage_points_of_rows_measured_while_decoding_are_these_alone() -> None:
    assert usage_points([(0.5, 0.1, None), (0.2, 0.3, 0.4), (0.1, 0.5, 0.0)]) == [(0.2, 0.4), (0.1, 0.0)]
