"""One sequence and its KV.

Owns the agreement between a sequence's tokens, the number of them that are computed, and its blocks. What the tokens
are for is the engines' business.
"""

from __future__ import annotations

from collections.abc import Sequence

from services.engines.transformers.block_manager import BlockManager, BlockTable
from services.engines.transformers.forward_batch import Row


class CachedSequence:
    """Tokens, and the KV of the first `num_computed` of them.

    Args:
        sequence_id: The caller's name for it.
        blocks: Where its blocks come from.

    Attributes:
        token_ids: All its tokens, computed or not.
        num_computed: Leading tokens whose KV stands.
        num_reused: Tokens whose KV came from the prefix cache.
        num_prefilled: Tokens that were run through the model.
        version: Changes whenever a pass that is under way becomes worthless to it.
        turn: When it was last scheduled; smaller is longer ago.
    """

    def __init__(self, sequence_id: int, blocks: BlockManager) -> None:
        self.sequence_id = sequence_id
        self.token_ids: list[int] = []
        self.num_computed = 0
        self.num_reused = 0
        self.num_prefilled = 0
        self.version = 0
        self.turn = 0
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

    def reuse(self, limit: int) -> int:
        """Takes over cached KV of at most `limit` leading tokens. The sequence must hold no blocks."""
        self.num_computed = self._blocks.reuse(self._table, self.token_ids, limit)
        self.num_reused += self.num_computed
        return self.num_computed

    def reserve(self) -> None:
        """Takes blocks for all its tokens.

        Raises:
            CapacityExceeded: Too few blocks are free; none was taken.
        """
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
        """Gives its blocks back. It can't be used afterwards."""
        self.version += 1
        self._blocks.free(self._table)
