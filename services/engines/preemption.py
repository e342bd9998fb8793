"""Whose KV is taken when a sequence needs room: the rules that all engines share.

Owns the order, when KV counts as mere cache, and who is given room in a step. What room is counted in, and how KV is
given up and rebuilt, is the engines'. Pure but for the clock that it is given.

The oldest sequence always gets room, on both models of a pair, since all engines go by the same order: the time of
admission. So whatever else waits, something moves, and in the end everything does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar

IDLE_S = 1.0
"""How long a sequence must have had no work before its KV is anyone's, in seconds.

Between two pieces of work a sequence of one model waits for the other one, for some ten milliseconds. If that made
its KV free for all, every younger sequence that waits for room would take it, and be robbed in turn as soon as the
older one goes on: nothing but prefills. One that waits for longer must not starve the others.
"""

SPARE_LEN = 16
"""Tokens that must be left for each running sequence to grow when one without KV is let in.

Otherwise the newcomer is the first to lose its KV, as soon as an older one grows by a token, and its prefill was in
vain. As it is, a prefill is followed by this many steps at least.
"""


class Prioritised(Protocol):
    """A sequence as far as the order needs to know it.

    `priority` is when it was admitted, in microseconds: a smaller one is older. Equals are told apart by their ids.
    """

    @property
    def sequence_id(self) -> int:
        """The sequence."""

    @property
    def priority(self) -> int:
        """When it was admitted."""


S = TypeVar("S", bound=Prioritised)
HolderT = TypeVar("HolderT", bound=Prioritised, contravariant=True)


def age(sequence: Prioritised) -> tuple[int, int]:
    """Sort key: oldest first."""
    return sequence.priority, sequence.sequence_id


def victims(holders: Iterable[S], asker: Prioritised, is_cache: Callable[[S], bool]) -> list[S]:
    """Lists the sequences whose KV `asker` may have, in the order in which they give it up: youngest first.

    Args:
        holders: Sequences that hold KV.
        asker: Who needs room; never among those listed.
        is_cache: Whether a sequence's KV is merely kept, since nobody asks for it now. Such KV goes to anyone; that
            of a sequence with work goes to older ones only.
    """
    willing = [
        holder
        for holder in holders
        if holder.sequence_id != asker.sequence_id and (age(holder) > age(asker) or is_cache(holder))
    ]
    return sorted(willing, key=age, reverse=True)


def fewest(willing: Iterable[S], num_missing: int, gain: Callable[[S], int]) -> list[S] | None:
    """The first of those who are willing whose KV is enough; None if that of all isn't, and nobody's is to be taken.

    Args:
        willing: In the order of `victims`.
        num_missing: How much room is missing, in any unit.
        gain: How much becomes free by taking a sequence's KV, after that of all before it.
    """
    chosen: list[S] = []
    for victim in willing:
        if num_missing <= 0:
            break
        chosen.append(victim)
        num_missing -= gain(victim)
    return chosen if num_missing <= 0 else None


class Room(Protocol[HolderT]):
    """The KV of one model, as far as sharing it out needs to know it."""

    @property
    def num_free(self) -> int:
        """Tokens that nobody holds."""

    def holds_any(self, sequence: HolderT) -> bool:
        """Whether the sequence holds KV."""

    def num_missing(self, sequence: HolderT) -> int:
        """How many tokens more than it holds the sequence needs for its next step, at most; 0 if none."""

    def take(self, sequence: HolderT, num_spare: int) -> bool:
        """Gets the sequence the room for its next step, by taking others' KV where it must; or changes nothing.

        Args:
            sequence: Who needs room.
            num_spare: Tokens that must be left over.
        """


def share_out(due: Iterable[S], room: Room[S]) -> list[S]:
    """Gives room to sequences with work, older ones first, and returns those that have it.

    One that has KV gets room to grow if there is any. One that has none is let in if no older one waits for that,
    and if those that run can grow beside it: what is thrown away soon shouldn't be computed. The oldest always is.

    Args:
        due: The sequences with work.
        room: Where they get it from.
    """
    settled: list[S] = []
    asking: list[S] = []
    num_missing = 0
    for sequence in due:
        num = room.num_missing(sequence)
        num_missing += num
        (asking if num else settled).append(sequence)
    if not asking:
        return settled
    if num_missing + SPARE_LEN * (len(settled) + len(asking)) > room.num_free:
        return _share_out_by_age(settled, asking, room)
    for sequence in asking:
        room.take(sequence, 0)
    return settled + asking


def _share_out_by_age(settled: list[S], asking: list[S], room: Room[S]) -> list[S]:
    asking.sort(key=age)
    oldest = min(asking[0], *settled, key=age) if settled else asking[0]
    running = list(settled)
    is_full = False
    for sequence in asking:
        is_new = not room.holds_any(sequence)
        if is_new and is_full:
            continue
        num_spare = SPARE_LEN * (len(running) + 1) if is_new and sequence is not oldest else 0
        if room.take(sequence, num_spare):
            running.append(sequence)
        elif is_new:
            is_full = True
    # Some may have lost their KV to an older one.
    return [sequence for sequence in running if not room.num_missing(sequence)]


class IdleSequence(Protocol):
    """A sequence that may have no work."""

    @property
    def idle_since(self) -> float:
        """When it last had work, by the clock of the rule."""


class IdleRule:
    """When the KV of a sequence without work becomes cache.

    All that is said is said of the moment of the last `look`: a sequence whose KV isn't cache by one answer still has
    some seconds left by the next.

    Args:
        idle_s: How long after its last work, in seconds.
        clock: What tells the time, in seconds.
    """

    def __init__(self, idle_s: float = IDLE_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._idle_s = idle_s
        self._clock = clock
        self._now = clock()

    def look(self) -> float:
        """Looks at the clock. Returns the time."""
        self._now = self._clock()
        return self._now

    def is_cache(self, sequence: IdleSequence) -> bool:
        """Whether a sequence without work has had none for long enough."""
        return self._seconds_left(sequence) <= 0

    def seconds_left(self, idle: Iterable[IdleSequence]) -> float | None:
        """How long until the next KV of these sequences becomes cache; None if none will."""
        return min((left for sequence in idle if (left := self._seconds_left(sequence)) > 0), default=None)

    def _seconds_left(self, sequence: IdleSequence) -> float:
        return sequence.idle_since + self._idle_s - self._now
