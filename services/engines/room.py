"""How many tokens of KV each sequence holds, out of a budget.

Owns the counts, for engines that have no blocks of their own to count: what stands before another's cache, and what
has no model at all. Whom to take from is the rule of `services.engines.preemption`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from services.engines.preemption import Prioritised, fewest, victims

S = TypeVar("S", bound=Prioritised)


class TokenRoom(Generic[S]):
    """A budget of tokens and the sequences that share it. Keeps no sum that grows with their number.

    Args:
        capacity: Tokens in all.
        needed: How many tokens a sequence must hold for its next step; at most `capacity`.
        is_cache: Whether a sequence's KV is merely kept; see `preemption.victims`.
        preempt: Called with a sequence whose KV was taken; it holds nothing by then.

    Attributes:
        num_used: Tokens that are held.
        num_preemptions: How often a sequence's KV was taken for another.
    """

    def __init__(
        self,
        capacity: int,
        *,
        needed: Callable[[S], int],
        is_cache: Callable[[S], bool],
        preempt: Callable[[S], None],
    ) -> None:
        self.capacity = capacity
        self.num_used = 0
        self.num_preemptions = 0
        self._needed = needed
        self._is_cache = is_cache
        self._preempt = preempt
        self._held: dict[int, int] = {}
        self._holders: dict[int, S] = {}

    def held(self, sequence: S) -> int:
        """Tokens that the sequence holds."""
        return self._held.get(sequence.sequence_id, 0)

    def holds_any(self, sequence: S) -> bool:
        """Whether the sequence holds KV."""
        return sequence.sequence_id in self._held

    @property
    def num_free(self) -> int:
        """Tokens that nobody holds."""
        return self.capacity - self.num_used

    def num_missing(self, sequence: S) -> int:
        """How many tokens more than it holds the sequence needs for its next step."""
        return max(0, self._needed(sequence) - self.held(sequence))

    def take(self, sequence: S, num_spare: int = 0) -> bool:
        """Gets the sequence the room for its next step, by taking others' KV where it must; or changes nothing.

        Args:
            sequence: Who needs room.
            num_spare: Tokens that must be left over.
        """
        num_more = self.num_missing(sequence)
        num_missing = num_more + num_spare - self.num_free
        if num_missing > 0:
            chosen = fewest(victims(self._holders.values(), sequence, self._is_cache), num_missing, self.held)
            if chosen is None:
                return False
            for victim in chosen:
                self.free(victim)
                self.num_preemptions += 1
                self._preempt(victim)
        self._set(sequence, self.held(sequence) + num_more)
        return True

    def cut(self, sequence: S, num_tokens: int) -> None:
        """The sequence keeps its first `num_tokens` at most."""
        if num_tokens < self.held(sequence):
            self._set(sequence, num_tokens)

    def free(self, sequence: S) -> None:
        """The sequence holds nothing any more."""
        self._set(sequence, 0)

    def _set(self, sequence: S, num_tokens: int) -> None:
        self.num_used += num_tokens - self.held(sequence)
        if num_tokens:
            self._held[sequence.sequence_id] = num_tokens
            self._holders[sequence.sequence_id] = sequence
        else:
            self._held.pop(sequence.sequence_id, None)
            self._holders.pop(sequence.sequence_id, None)
