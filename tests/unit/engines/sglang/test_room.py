from __future__ import annotations

from dataclasses import dataclass

import pytest

pytest.importorskip("services.engines.sglang", exc_type=ModuleNotFoundError)
from services.engines.sglang.room import Room


@dataclass(eq=False)
class Holder:
    sequence_id: int
    need: int = 10
    priority: int = 0
    is_cache: bool = False


def room_of(num_tokens: int) -> tuple[Room[Holder], list[int], list[int]]:
    admitted: list[int] = []
    lost: list[int] = []
    room = Room[Holder](
        num_tokens,
        need=lambda holder: holder.need,
        is_cache=lambda holder: holder.is_cache,
        admit=lambda holder: admitted.append(holder.sequence_id),
        preempt=lambda holder: lost.append(holder.sequence_id),
    )
    return room, admitted, lost


def test_older_takes_from_the_youngest_as_many_as_it_needs() -> None:
    room, _admitted, lost = room_of(35)
    holders = [Holder(sequence_id) for sequence_id in (1, 2, 3)]
    assert all(room.take(holder, 10) for holder in holders)
    assert room.take(holders[0], 20)
    assert lost == [3]
    assert [room.held_by(holder) for holder in holders] == [20, 10, 0]
    assert room.num_held == 30


def test_younger_takes_from_an_older_one_only_what_is_cache() -> None:
    room, _admitted, lost = room_of(20)
    older, cache, younger = Holder(1), Holder(2, is_cache=True), Holder(3)
    assert room.take(older, 10)
    assert room.take(cache, 10)
    assert room.take(younger, 10)
    assert lost == [2]
    assert not room.take(Holder(4), 5)


def test_nobody_loses_room_to_one_that_would_still_lack_some() -> None:
    room, _admitted, lost = room_of(30)
    oldest, middle, youngest = Holder(1), Holder(2), Holder(3)
    for holder in (oldest, middle, youngest):
        assert room.take(holder, 10)
    assert not room.take(middle, 25)
    assert lost == []
    assert room.held_by(middle) == 10


def test_those_who_wait_are_served_oldest_first_and_none_before_an_older_one() -> None:
    room, admitted, _lost = room_of(20)
    owner = Holder(1)
    assert room.take(owner, 15)
    large, small = Holder(2, need=10), Holder(3, need=5)
    room.ask(small)
    room.ask(large)
    room.serve()
    assert (admitted, room.num_waiting) == ([], 2)
    room.leave(owner)
    room.serve()
    assert (admitted, room.num_waiting, room.num_held) == ([2, 3], 0, 15)


def test_what_is_kept_and_left_is_free_for_others() -> None:
    room, admitted, _lost = room_of(20)
    owner, other = Holder(1), Holder(2, need=12)
    assert room.take(owner, 20)
    room.keep(owner, 8)
    room.keep(owner, 15)
    assert room.held_by(owner) == 8
    room.ask(other)
    room.leave(other)
    room.serve()
    assert admitted == []
    room.ask(other)
    room.serve()
    assert (admitted, room.num_held) == ([2], 20)
