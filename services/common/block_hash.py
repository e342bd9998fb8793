"""Names a block of tokens by its content and by all that precedes it.

Owns the hash alone. Who holds a block is kept by an engine's block manager for itself, and by the prefix index for
all replicas.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from hashlib import blake2b

DIGEST_LEN = 16
"""Bytes of a hash."""


def hash_block(parent: bytes, token_ids: Sequence[int], key: bytes = b"") -> bytes:
    """Hashes a block; the same on every machine.

    Args:
        parent: Hash of the block before it; empty for the first one.
        token_ids: The block, each id in [0, 2**32).
        key: At most 64 bytes. The hashes under one key tell nothing of those under another.

    Returns:
        16 bytes. Those of two blocks are equal exactly if the blocks are, and all that precedes them.
    """
    packed = struct.pack(f"<{len(token_ids)}I", *token_ids)
    return blake2b(parent + packed, digest_size=DIGEST_LEN, key=key).digest()
