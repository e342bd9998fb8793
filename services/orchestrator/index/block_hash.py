"""Hashes a sequence's blocks, each once while the sequence grows.

Two sequences of the same two models share the hash of block i exactly if their first (i + 1) * BLOCK_LEN tokens are
the same. Who holds a block is `prefix_index`'s.
"""

from __future__ import annotations

from collections.abc import Sequence

from services.common.block_hash import hash_block

BLOCK_LEN = 16
"""Tokens a block. Shorter blocks find more of a prefix, and cost more keys."""


class BlockChain:
    """The hashes of a sequence's whole blocks, as far as they were asked for.

    Args:
        models_identity: At most 64 bytes that tell pairs of models apart: the same ids mean another KV cache in
            another model.
    """

    def __init__(self, models_identity: bytes) -> None:
        self._key = models_identity
        self._hashes: list[bytes] = []

    def hashes(self, token_ids: Sequence[int], num_tokens: int) -> Sequence[bytes]:
        """Hashes what is new of the sequence.

        Args:
            token_ids: The sequence, each id in [0, 2**32). It begins with the tokens of earlier calls.
            num_tokens: Leading tokens that count, at most `len(token_ids)`.

        Returns:
            num_tokens // BLOCK_LEN hashes of 16 bytes, first block first. What is left over at the end has no hash.
        """
        num_blocks = num_tokens // BLOCK_LEN
        for index in range(len(self._hashes), num_blocks):
            parent = self._hashes[-1] if self._hashes else b""
            block = token_ids[index * BLOCK_LEN : (index + 1) * BLOCK_LEN]
            self._hashes.append(hash_block(parent, block, self._key))
        return self._hashes[:num_blocks]
