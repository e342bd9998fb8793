"""Gets sequences the blocks that their next step needs, out of those of others where it must.

Owns what taking KV means for blocks: shared ones become free with their last holder only, and what is registered may
be found again. Whom to take from is the rule of `services.engines.preemption`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from services.engines.base import EngineLoad
from services.engines.preemption import fewest, victims
from services.engines.transformers.block_manager import BlockManager
from services.engines.transformers.sequence import CachedSequence

S = TypeVar("S", bound=CachedSequence)


class BlockRoom(Generic[S]):
    """The blocks of a pool and the sequences that share them; a `preemption.Room`.

    Args:
        blocks: The pool.
        counts: Where reuse and preemptions are counted.
        sequences: All sequences that may hold blocks.
        is_cache: Whether a sequence's KV is merely kept; see `preemption.victims`.
        reuse_limit: How many leading tokens of a sequence may come from the prefix cache; below their number, since
            the last one must be run.
    """

    def __init__(
        self,
        blocks: BlockManager,
        counts: EngineLoad,
        *,
        sequences: Callable[[], Iterable[S]],
        is_cache: Callable[[S], bool],
        reuse_limit: Callable[[S], int],
    ) -> None:
        self._blocks = blocks
        self._counts = counts
        self._sequences = sequences
        self._is_cache = is_cache
        self._reuse_limit = reuse_limit

    @property
    def num_free(self) -> int:
        """Tokens in blocks that nobody holds."""
        return self._blocks.num_free_tokens

    def holds_any(self, sequence: S) -> bool:
        """Whether the sequence holds blocks."""
        return sequence.holds_kv

    def num_missing(self, sequence: S) -> int:
        """How much room the sequence's tokens need beyond its blocks, if nothing is found in the prefix cache."""
        return sequence.num_missing_tokens

    def take(self, sequence: S, num_spare: int) -> bool:
        """Gets the sequence blocks for all its tokens, by taking others' where it must; or changes nothing.

        Args:
            sequence: Who needs room.
            num_spare: Tokens that must be left over.
        """
        is_new = not sequence.holds_kv
        if is_new:
            sequence.reuse(self._reuse_limit(sequence))
        if not self._make_free(sequence, sequence.num_missing_tokens + num_spare):
            if is_new:
                sequence.free()
            return False
        sequence.reserve()
        if is_new:
            self._counts.num_tokens_reused += sequence.num_reused
        return True

    def _make_free(self, asker: S, num_tokens: int) -> bool:
        num_missing = num_tokens - self.num_free
        if num_missing <= 0:
            return True
        holders = [sequence for sequence in self._sequences() if sequence.holds_kv]
        given_up: Counter[int] = Counter()
        chosen = fewest(
            victims(holders, asker, self._is_cache), num_missing, lambda victim: victim.num_tokens_freed(given_up)
        )
        if chosen is None:
            return False
        for victim in chosen:
            victim.free()
        self._counts.num_preemptions += len(chosen)
        return True
