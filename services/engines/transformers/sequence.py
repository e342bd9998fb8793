"""One sequence and its KV.

Owns the agreement between a sequence's tokens, the number of them that are computed, and its blocks. What the tokens
are for is the engines' business.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from services.engines.transformers.block_manager import BlockManager, BlockTable
from services.engines.transformers.forward_batch import Row


class CachedSequence:
    """Tokens, and the KV of the first `num_computed` of them.

    Args:
        sequence_id: The caller's name for it.
        blocks: Where its blocks come from.
        priority: When it was admitted; a smaller one is older.

    Attributes:
        token_ids: All its tokens, computed or not.
        num_computed: Leading tokens whose KV stands.
        num_reused: Tokens whose KV was found in the prefix cache when it was last asked.
        num_prefilled: Tokens that were run through the model.
        version: Changes whenever a pass that is under way becomes worthless to it.
        turn: When it was last scheduled; smaller is longer ago.
        idle_since: When it last had work, in seconds.
    """

    def __init__(self, sequence_id: int, blocks: BlockManager, priority: int = 0) -> None:
        self.sequence_id = sequence_id
        self.priority = priority
        self.token_ids: list[int] = []
        self.num_computed = 0
        self.num_reused = 0
        self.num_prefilled = 0
        self.version = 0
        self.turn = 0
        self.idle_since = 0.0
        self._blocks = blocks
        self._table = BlockTable(blocks.block_len)

    @property
    def num_pending(self) -> int:
        """Tokens that are still to be run."""
        return len(self.token_ids) - self.num_computed

    def cut(self, length: int, token_ids: Sequence[int]) -> None:
        """Keeps the first `length` tokens and appends others."""
        self.version += 1
        del self.token_ids[length:]
        self.num_computed = min(self.num_computed, self._blocks.truncate(self._table, length))
        self.token_ids.extend(token_ids)

    @property
    def holds_kv(self) -> bool:
        """Whether it has blocks."""
        return bool(self._table.block_ids)

    @property
    def num_missing_tokens(self) -> int:
        """How much room all its tokens need beyond its blocks, in whole blocks."""
        return self._blocks.num_missing_tokens(self._table, len(self.token_ids))

    def num_tokens_freed(self, given_up: Counter[int]) -> int:
        """How much room there would be without it; see `BlockManager.num_tokens_freed`."""
        return self._blocks.num_tokens_freed(self._table, given_up)

    def reuse(self, limit: int) -> None:
        """Takes over cached KV of at most `limit` leading tokens. The sequence must hold no blocks."""
        self.num_computed = self.num_reused = self._blocks.reuse(self._table, self.token_ids, limit)

    def reserve(self) -> None:
        """Takes blocks for all its tokens. Enough must be free."""
        self._blocks.grow(self._table, len(self.token_ids))

    def row(self, num_new: int, output_offsets: Sequence[int]) -> Row:
        """The next `num_new` tokens, to be run through the model. They need blocks."""
        end = self.num_computed + num_new
        return Row(self.token_ids[self.num_computed : end], self._table.slots(end), output_offsets)

    def advance(self, num_new: int) -> None:
        """Notes that the KV of the next `num_new` tokens has been written."""
        self.num_computed += num_new
        self.num_prefilled += num_new
        self._blocks.commit(self._table, self.token_ids, self.num_computed)

    def free(self) -> None:
        """Gives its blocks back. Its tokens can be computed again, in other blocks."""
        self.version += 1
        self.num_computed = 0
        self._blocks.free(self._table)
