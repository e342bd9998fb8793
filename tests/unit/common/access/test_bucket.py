from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.access.bucket import TokenBucket

STEPS = st.lists(st.tuples(st.floats(0, 30), st.integers(0, 500)), max_size=30)


def test_full_bucket_gives_a_minutes_tokens_and_then_makes_wait() -> None:
    bucket = TokenBucket(60, now=0.0)
    assert bucket.wait_s(0.0) == 0
    bucket.take(60, 0.0)
    assert bucket.wait_s(0.0) == 1.0
    assert bucket.wait_s(1.0) == 0


def test_what_was_taken_too_much_is_owed() -> None:
    bucket = TokenBucket(60, now=0.0)
    bucket.take(180, 0.0)
    assert bucket.wait_s(0.0) == pytest.approx(121.0)
    assert bucket.wait_s(121.0) == 0


def test_bucket_without_end_never_makes_wait() -> None:
    bucket = TokenBucket(None, now=0.0)
    bucket.take(10**9, 0.0)
    assert bucket.wait_s(0.0) == 0


@given(st.integers(1, 600), STEPS)
def test_nobody_who_waits_as_told_gets_more_than_the_rate_and_one_bucket(
    per_minute: int, steps: list[tuple[float, int]]
) -> None:
    """Counts all takings but the last, which alone may overdraw."""
    bucket, now, taken = TokenBucket(per_minute, 0.0), 0.0, 0
    for pause_s, num_tokens in steps:
        now += pause_s
        now += bucket.wait_s(now)
        assert taken <= per_minute + now * per_minute / 60 + 1e-3
        bucket.take(num_tokens, now)
        taken += num_tokens


@given(st.integers(1, 600), STEPS)
def test_wait_is_as_long_as_told_and_no_longer(per_minute: int, steps: list[tuple[float, int]]) -> None:
    bucket, now = TokenBucket(per_minute, 0.0), 0.0
    for pause_s, num_tokens in steps:
        now += pause_s
        bucket.take(num_tokens, now)
        if (wait_s := bucket.wait_s(now)) > 1e-3:
            assert bucket.wait_s(now + wait_s * 0.99) > 0
            now += wait_s * 1.001
            assert bucket.wait_s(now) == pytest.approx(0, abs=1e-3)


def test_another_rate_keeps_the_debt_and_caps_what_is_there() -> None:
    bucket = TokenBucket(600, now=0.0)
    bucket.set_rate(60, 0.0)
    bucket.take(60, 0.0)
    assert bucket.wait_s(0.0) > 0
    bucket.take(60, 0.0)
    bucket.set_rate(600, 0.0)
    assert bucket.wait_s(0.0) == pytest.approx(6.1)


def test_budget_that_gets_an_end_begins_full() -> None:
    bucket = TokenBucket(None, now=0.0)
    bucket.take(1000, 0.0)
    bucket.set_rate(60, 100.0)
    assert bucket.wait_s(100.0) == 0
    bucket.take(60, 100.0)
    assert bucket.wait_s(100.0) > 0
