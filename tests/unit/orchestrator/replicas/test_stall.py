from __future__ import annotations

import pytest

from services.orchestrator.replicas.stall import StallWatch


def _silence(watch: StallWatch, limit_s: float = 100.0) -> float:
    """Seconds of silence until it counts as a stall."""
    seconds = 0.0
    while seconds < limit_s:
        seconds += 0.25
        if watch.tick(0.25, is_due=True):
            return seconds
    raise AssertionError(f"no stall within {limit_s} s")


def test_silence_of_a_replica_that_owes_an_answer_is_a_stall_just_after_the_limit() -> None:
    assert _silence(StallWatch(3.0)) == 3.25


def test_silence_of_a_replica_that_owes_nothing_is_none() -> None:
    watch = StallWatch(3.0)
    assert not any(watch.tick(0.25, is_due=False) for _ in range(1000))
    assert _silence(watch) == 3.25


def test_limit_follows_the_longest_wait_and_forgets_it() -> None:
    watch = StallWatch(3.0)
    for _ in range(8):
        watch.tick(0.25, is_due=True)
    watch.heard()
    assert 5.5 < watch.limit_s <= 6.0
    for _ in range(4 * 60):
        watch.tick(0.25, is_due=False)
    assert watch.limit_s == 3.0


def test_time_in_which_the_watcher_itself_stood_still_is_not_held_against_the_replica() -> None:
    watch = StallWatch(3.0)
    assert not watch.tick(60.0, is_due=True)
    assert _silence(watch) == pytest.approx(2.75)


def test_patience_grows_with_each_false_alarm_and_ends_with_a_true_one() -> None:
    watch = StallWatch(3.0)
    for limit_s in (6.0, 12.0, 24.0, 24.0):
        watch.begin()
        watch.was_alive()
        assert watch.limit_s == limit_s
    watch.was_gone()
    assert watch.limit_s == 3.0
