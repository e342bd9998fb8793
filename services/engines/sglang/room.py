"""Who holds how much of the KV budget, and who waits for some.

Owns the account and the order: what a sequence needs, and what it means to get room or to lose it, is the engine's.
Pure.

Room is given to those who wait, oldest first, by the rule of `services.engines.preemption`. While the oldest of them
finds none, the others wait too: they would be the first to lose it again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from services.engines.preemption import Prioritised, age, victims

S = TypeVar("S", bound=Prioritised)


class Room(Generic[S]):
    """The account of one engine.

    Args:
        num_tokens: The budget. No sequence may need more.
        need: Tokens that a sequence must hold to go on.
        is_cache: Whether what a sequence holds is merely kept, since it has no work.
        admit: Called once a sequence that waited holds what it needs.
        preempt: Called once a sequence has lost all that it held. One that has work must ask again.

    Attributes:
        num_held: Tokens that all sequences hold together, at most the budget.
    """

    def __init__(
        self,
        num_tokens: int,
        *,
        need: Callable[[S], int],
        is_cache: Callable[[S], bool],
        admit: Callable[[S], None],
        preempt: Callable[[S], None],
    ) -> None:
        self._num_tokens = num_tokens
        self._need = need
        self._is_cache = is_cache
        self._admit = admit
        self._preempt = preempt
        self._held: dict[S, int] = {}
        self._waiting: dict[int, S] = {}
        self.num_held = 0

    @property
    def num_waiting(self) -> int:
        """Sequences that wait for room."""
        return len(self._waiting)

    @property
    def holders(self) -> list[S]:
        """Sequences that hold some."""
        return list(self._held)

    def held_by(self, sequence: S) -> int:
        """Tokens that a sequence holds."""
        return self._held.get(sequence, 0)

    def ask(self, sequence: S) -> None:
        """Lets a sequence wait until it can have what it needs; `serve` looks at whose turn it is."""
        self._waiting[sequence.sequence_id] = sequence

    def withdraw(self, sequence: S) -> None:
        """The sequence waits no longer. What it holds stays its own."""
        self._waiting.pop(sequence.sequence_id, None)

    def serve(self) -> None:
        """Gives room to those who wait, for as long as the oldest of them finds some."""
        while self._waiting:
            oldest = min(self._waiting.values(), key=age)
            if not self.take(oldest, self._need(oldest)):
                return
            del self._waiting[oldest.sequence_id]
            self._admit(oldest)

    def take(self, sequence: S, length: int) -> bool:
        """Makes a sequence hold `length` tokens, at others' cost if need be; if it can't be, nothing changes.

        Returns:
            Whether it holds them now.
        """
        num_missing = length - self.held_by(sequence) - (self._num_tokens - self.num_held)
        losers: list[S] = []
        if num_missing > 0:
            for victim in victims(self._held, sequence, self._is_cache):
                losers.append(victim)
                num_missing -= self._held[victim]
                if num_missing <= 0:
                    break
            else:
                return False
        for loser in losers:
            self._set(loser, 0)
            self._preempt(loser)
        self._set(sequence, length)
        return True

    def keep(self, sequence: S, length: int) -> None:
        """A sequence gives up what it holds beyond its first `length` tokens."""
        self._set(sequence, min(length, self.held_by(sequence)))

    def leave(self, sequence: S) -> None:
        """A sequence gives up everything, its turn included."""
        self.withdraw(sequence)
        self._set(sequence, 0)

    def _set(self, sequence: S, length: int) -> None:
        self.num_held += length - self._held.pop(sequence, 0)
        if length > 0:
            self._held[sequence] = length
