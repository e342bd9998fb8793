"""Who owns which block of the KV pool.

Owns reference counts, the prefix cache and eviction. Holds no keys and values and knows no torch: a block is a
number.

A block holds the KV of `block_len` consecutive tokens. A full block whose KV has been computed is *registered* under
the chained digest of all tokens up to its end, so that a later sequence with the same prefix shares it. A block that
nobody holds is free, but keeps its registration until it is handed out again, least recently freed first.

Only a block that is neither shared nor registered may be written; `truncate` makes sure that this holds for the
blocks at and after a sequence's new end.
"""

from __future__ import annotations

from array import array
from collections import Counter, OrderedDict
from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

BLOCK_LEN = 16
"""Tokens a block."""

PADDING_BLOCK = 0
"""Never handed out: what padding reads and writes."""


class BlockTable:
    """The blocks of one sequence, in order of position.

    Args:
        block_len: Tokens a block.

    Attributes:
        block_ids: The blocks; block i holds positions i * block_len and after.
        digests: Chained digests of the leading blocks that are full and computed.
    """

    __slots__ = ("_block_len", "_slots", "block_ids", "digests")

    def __init__(self, block_len: int = BLOCK_LEN) -> None:
        self._block_len = block_len
        self._slots = np.empty(8 * block_len, dtype=np.int64)
        self.block_ids: list[int] = []
        self.digests: list[bytes] = []

    @property
    def capacity(self) -> int:
        """Number of positions that the blocks cover."""
        return len(self.block_ids) * self._block_len

    def slots(self, length: int) -> NDArray[np.int64]:
        """Pool slots of positions 0 to `length` - 1: a copy, int64 [length]."""
        return self._slots[:length].copy()

    def append(self, block_id: int) -> None:
        """Adds a block at the end."""
        begin = self.capacity
        end = begin + self._block_len
        if end > len(self._slots):
            self._slots = np.concatenate((self._slots, np.empty_like(self._slots)))
        first = block_id * self._block_len
        self._slots[begin:end] = np.arange(first, first + self._block_len)
        self.block_ids.append(block_id)


class BlockManager:
    """Hands out blocks, shares those with equal prefixes, and takes them back.

    Args:
        num_blocks: Blocks in the pool, numbered from 1; 0 is `PADDING_BLOCK` and comes on top.
        block_len: Tokens a block.
    """

    def __init__(self, num_blocks: int, block_len: int = BLOCK_LEN) -> None:
        if num_blocks < 1:
            raise ValueError(f"num_blocks: the KV budget must hold at least one block, got {num_blocks}")
        self.block_len = block_len
        self.num_blocks = num_blocks
        self._num_holders = [0] * (num_blocks + 1)
        self._digest_of: list[bytes | None] = [None] * (num_blocks + 1)
        self._block_of: dict[bytes, int] = {}
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(1, num_blocks + 1))

    @property
    def num_used_tokens(self) -> int:
        """Tokens in blocks that somebody holds, whole blocks counted."""
        return (self.num_blocks - len(self._free)) * self.block_len

    @property
    def num_free_tokens(self) -> int:
        """Tokens in blocks that nobody holds."""
        return len(self._free) * self.block_len

    @property
    def num_capacity_tokens(self) -> int:
        """Tokens in all blocks."""
        return self.num_blocks * self.block_len

    def reuse(self, table: BlockTable, token_ids: Sequence[int], limit: int) -> int:
        """Gives an empty table the longest registered prefix of `token_ids[:limit]`, in whole blocks.

        Returns:
            Number of tokens whose KV is reused.
        """
        digest = b""
        for end in range(self.block_len, limit + 1, self.block_len):
            digest = _chain(digest, token_ids[end - self.block_len : end])
            block_id = self._block_of.get(digest)
            if block_id is None:
                break
            if self._num_holders[block_id] == 0:
                del self._free[block_id]
            self._num_holders[block_id] += 1
            table.append(block_id)
            table.digests.append(digest)
        return table.capacity

    def num_missing_tokens(self, table: BlockTable, length: int) -> int:
        """How much room the table needs to cover `length` positions, in whole blocks."""
        return max(0, -(-length // self.block_len) - len(table.block_ids)) * self.block_len

    def num_tokens_freed(self, table: BlockTable, given_up: Counter[int]) -> int:
        """How much room there would be if the table gave its blocks back.

        Args:
            table: The blocks.
            given_up: How many of the tables before it would give up each block; this one's are added.
        """
        given_up.update(table.block_ids)
        num_freed = sum(given_up[block_id] == self._num_holders[block_id] for block_id in table.block_ids)
        return num_freed * self.block_len

    def grow(self, table: BlockTable, length: int) -> None:
        """Adds blocks until the table covers `length` positions; all of them or none.

        Raises:
            ValueError: Too few blocks are free; ask `num_missing_tokens` before.
        """
        num_missing = self.num_missing_tokens(table, length) // self.block_len
        if num_missing > len(self._free):
            raise ValueError(f"length: {num_missing} more blocks are needed, {len(self._free)} are free")
        for _ in range(num_missing):
            block_id, _none = self._free.popitem(last=False)
            self._unregister(block_id)
            self._num_holders[block_id] = 1
            table.append(block_id)

    def commit(self, table: BlockTable, token_ids: Sequence[int], num_computed: int) -> None:
        """Registers the blocks that the first `num_computed` tokens fill. Their KV must have been written."""
        while (end := (len(table.digests) + 1) * self.block_len) <= num_computed:
            parent = table.digests[-1] if table.digests else b""
            digest = _chain(parent, token_ids[end - self.block_len : end])
            block_id = table.block_ids[len(table.digests)]
            table.digests.append(digest)
            # Two sequences may have computed the same block side by side; the first stays the one that is found.
            if digest not in self._block_of:
                self._block_of[digest] = block_id
                self._digest_of[block_id] = digest

    def truncate(self, table: BlockTable, length: int) -> int:
        """Drops what lies beyond `length` positions, and makes the rest of the last block writable.

        A last block that others share can't be written. It is given up too, which costs its owner a few tokens of
        recomputation and saves everyone a copy.

        Returns:
            Number of leading positions whose KV, if computed, still stands: `length` or the block border before it.
        """
        num_full, num_over = divmod(length, self.block_len)
        num_kept = num_full + (num_over > 0)
        self._release(table, num_kept)
        if num_over and len(table.block_ids) == num_kept:
            last = table.block_ids[-1]
            if self._num_holders[last] > 1:
                self._release(table, num_full)
                length = num_full * self.block_len
            else:
                self._unregister(last)
        del table.digests[num_full:]
        return length

    def free(self, table: BlockTable) -> None:
        """Gives all blocks back. Registered ones can be found until they are handed out again."""
        self._release(table, 0)
        table.digests.clear()

    def _release(self, table: BlockTable, num_kept: int) -> None:
        # Last block first: a prefix is useless without its beginning, so the end must be evicted before it.
        while len(table.block_ids) > num_kept:
            block_id = table.block_ids.pop()
            self._num_holders[block_id] -= 1
            if self._num_holders[block_id] == 0:
                self._free[block_id] = None
                if self._digest_of[block_id] is None:
                    self._free.move_to_end(block_id, last=False)

    def _unregister(self, block_id: int) -> None:
        digest = self._digest_of[block_id]
        if digest is not None:
            del self._block_of[digest]
            self._digest_of[block_id] = None


def _chain(parent: bytes, token_ids: Sequence[int]) -> bytes:
    return blake2b(parent + array("I", token_ids).tobytes(), digest_size=16).digest()
