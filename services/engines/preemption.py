"""Whose KV is taken when a sequence needs room: the rule that all engines share.

Owns the order alone; what KV is, and how it is given up and rebuilt, is the engines'. Pure.

The oldest sequence always gets room, on both models of a pair, since all engines go by the same order: the time of
admission. So whatever else waits, something moves, and in the end everything does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar


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
