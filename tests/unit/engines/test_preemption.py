from __future__ import annotations

from dataclasses import dataclass

import pytest

from services.engines.preemption import SPARE_LEN, IdleRule, fewest, share_out, victims
from services.engines.room import TokenRoom


@dataclass(frozen=True)
class Sequence:
    sequence_id: int
    priority: int = 0
    idle_since: float = 0.0


def ids(sequences: list[Sequence]) -> list[int]:
    return [sequence.sequence_id for sequence in sequences]


def test_victims_are_the_younger_ones_and_caches_youngest_first() -> None:
    holders = [Sequence(1, 10), Sequence(2, 40), Sequence(3, 20), Sequence(4, 30), Sequence(5, 30)]
    assert ids(victims(holders, holders[3], lambda sequence: sequence.sequence_id == 1)) == [2, 5, 1]


@pytest.mark.parametrize(("num_missing", "chosen"), [(0, []), (1, [3]), (4, [3]), (5, [3, 2]), (9, None)])
def test_no_more_victims_are_chosen_than_are_needed_and_none_if_all_are_not_enough(
    num_missing: int, chosen: list[int] | None
) -> None:
    found = fewest([Sequence(3), Sequence(2)], num_missing, lambda _victim: 4)
    assert (None if found is None else ids(found)) == chosen


class Shared:
    """A room of tokens and what was taken from whom."""

    def __init__(self, capacity: int, needed: dict[int, int], caches: frozenset[int] = frozenset()) -> None:
        self.needed = needed
        self.preempted: list[int] = []
        self.room: TokenRoom[Sequence] = TokenRoom(
            capacity,
            needed=lambda sequence: needed[sequence.sequence_id],
            is_cache=lambda sequence: sequence.sequence_id in caches,
            preempt=lambda sequence: self.preempted.append(sequence.sequence_id),
        )

    def share_out(self, *sequences: Sequence) -> list[int]:
        with_room = ids(share_out(sequences, self.room))
        assert 0 <= self.room.num_used <= self.room.capacity
        return sorted(with_room)


OLD, MIDDLE, YOUNG = Sequence(7, 1), Sequence(8, 2), Sequence(9, 3)


def test_room_for_all_goes_to_all() -> None:
    shared = Shared(1000, {7: 100, 8: 100, 9: 100})
    assert shared.share_out(YOUNG, OLD, MIDDLE) == [7, 8, 9]
    assert (shared.room.num_used, shared.preempted) == (300, [])


def test_older_ones_are_let_in_first() -> None:
    shared = Shared(150, {7: 100, 8: 100, 9: 10})
    assert shared.share_out(YOUNG, MIDDLE, OLD) == [7]


def test_old_sequence_takes_the_room_of_the_youngest() -> None:
    shared = Shared(290, {7: 100, 8: 100, 9: 100})
    assert shared.share_out(MIDDLE, YOUNG) == [8, 9]
    assert shared.share_out(OLD, MIDDLE, YOUNG) == [7, 8]
    assert (shared.preempted, shared.room.num_preemptions) == ([9], 1)


def test_young_sequence_takes_nothing_but_cache() -> None:
    caches = frozenset({7})
    shared = Shared(300, {7: 150, 8: 100, 9: 100}, caches)
    assert shared.share_out(OLD) == [7]
    assert shared.share_out(MIDDLE) == [8]
    assert shared.preempted == []
    assert shared.share_out(MIDDLE, YOUNG) == [8, 9]
    assert shared.preempted == [7]


def test_nothing_is_taken_where_it_would_not_be_enough() -> None:
    shared = Shared(200, {7: 150, 8: 180, 9: 10})
    assert shared.share_out(OLD) == [7]
    shared.room.take(YOUNG, 0)
    assert shared.share_out(OLD, MIDDLE, YOUNG) == [7, 9]
    assert shared.preempted == []


def test_newcomer_waits_until_those_that_run_can_grow_beside_it() -> None:
    shared = Shared(200 + 2 * SPARE_LEN, {7: 100, 8: 101})
    assert shared.share_out(OLD, MIDDLE) == [7]
    shared.needed[8] = 100
    assert shared.share_out(OLD, MIDDLE) == [7, 8]


def test_oldest_may_fill_all_of_the_room() -> None:
    shared = Shared(200, {7: 200, 8: 150})
    assert shared.share_out(MIDDLE) == [8]
    assert shared.share_out(OLD, MIDDLE) == [7]
    assert shared.room.num_free == 0


def test_sequence_with_kv_grows_though_an_older_one_without_waits() -> None:
    shared = Shared(200, {7: 100, 8: 180, 9: 60})
    assert shared.share_out(OLD) == [7]
    shared.room.take(YOUNG, 0)
    shared.needed[9] = 70
    assert shared.share_out(OLD, MIDDLE, YOUNG) == [7, 9]
    assert shared.room.held(YOUNG) == 70


def test_cut_and_freed_room_is_there_for_others() -> None:
    shared = Shared(100, {7: 90, 8: 60})
    shared.share_out(OLD)
    shared.room.cut(OLD, 30)
    assert shared.room.num_free == 70
    shared.room.cut(OLD, 50)
    assert shared.room.held(OLD) == 30
    shared.room.free(OLD)
    shared.room.free(OLD)
    assert (shared.room.num_free, shared.room.holds_any(OLD)) == (100, False)


def test_kv_is_cache_once_its_sequence_has_been_idle_for_long_enough() -> None:
    now = 100.0
    rule = IdleRule(1.0, lambda: now)
    idle = [Sequence(1, idle_since=99.5), Sequence(2, idle_since=99.75)]
    assert not any(map(rule.is_cache, idle))
    assert rule.seconds_left(idle) == 0.5
    now = 100.5
    # Nothing changes until somebody looks.
    assert rule.seconds_left(idle) == 0.5
    assert rule.look() == 100.5
    assert list(map(rule.is_cache, idle)) == [True, False]
    assert rule.seconds_left(idle) == 0.25
    now = 200.0
    rule.look()
    assert rule.seconds_left(idle) is None
