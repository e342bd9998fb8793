"""Names blocks of tokens by their content and all that precedes them.

Owns the hash alone; `services.orchestrator.index.prefix_index` stores who holds a block. Two sequences of one pair
share the hash of block i exactly if their first (i + 1) * BLOCK_LEN tokens are the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

BLOCK_LEN = 16
"""Tokens a block. Shorter blocks find more of a prefix, and cost more keys."""

_DIGEST_BYTES = 16
_TOKEN_BYTES = 4


def block_hashes(token_ids: Sequence[int], pair_identity: bytes) -> list[bytes]:
    """Hashes every whole block of a sequence; what is left over at the end has no hash.

    Args:
        token_ids: The sequence, each id in [0, 2**32).
        pair_identity: At most 64 bytes that tell pairs apart: the same ids mean another KV cache in another pair.

    Returns:
        len(token_ids) // BLOCK_LEN hashes of 16 bytes, first block first.
    """
    num_blocks = len(token_ids) // BLOCK_LEN
    packed = np.asarray(token_ids[: num_blocks * BLOCK_LEN], dtype="<u4").tobytes()
    hashes = []
    previous = b""
    for start in range(0, len(packed), BLOCK_LEN * _TOKEN_BYTES):
        block = packed[start : start + BLOCK_LEN * _TOKEN_BYTES]
        previous = hashlib.blake2b(previous + block, digest_size=_DIGEST_BYTES, key=pair_identity).digest()
        hashes.append(previous)
    return hashes
