"""The KV of all sequences, and the view of it that a Hugging Face model reads and writes.

Owns the tensors. Which block belongs to whom is the block manager's business.

A layer's pool is [slots, kv_heads, key_dim + value_dim]; slot = block * block_len + offset. Keys and values lie side
by side, so that one copy writes and one copy gathers both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers.cache_utils import Cache


@dataclass(frozen=True, slots=True)
class LayerShape:
    """What one layer caches a token."""

    num_kv_heads: int
    key_dim: int
    value_dim: int


class PagedCache(Cache):
    """A `transformers` cache whose rows lie scattered over a pool.

    Before a forward pass, `aim` says where the pass writes and what it reads.

    Args:
        shapes: One a layer.
        num_slots: Tokens in the pool, padding block included.
        dtype: Type of keys and values.
        device: Where the pool lies.

    Attributes:
        pools: One tensor a layer.
    """

    def __init__(
        self, shapes: Sequence[LayerShape], num_slots: int, *, dtype: torch.dtype, device: torch.device
    ) -> None:
        super().__init__(layers=[])
        self._shapes = shapes
        # Zeros, not empty: padding reads slots that nobody wrote, and a masked NaN is still a NaN.
        self.pools = [
            torch.zeros(num_slots, shape.num_kv_heads, shape.key_dim + shape.value_dim, dtype=dtype, device=device)
            for shape in shapes
        ]
        self._num_rows = 0
        self._kv_len = 0
        self._query_len = 0
        self._write_slots = self._read_slots = torch.empty(0, dtype=torch.int64)

    def aim(self, write_slots: Tensor, read_slots: Tensor) -> None:
        """Sets the slots of the next pass.

        Args:
            write_slots: [rows, query] int64, where the new tokens' KV goes.
            read_slots: [rows, kv] int64, what each row attends to, new tokens included, padded at the right.
        """
        self._num_rows, self._kv_len = read_slots.shape
        self._query_len = write_slots.shape[1]
        self._write_slots = write_slots.flatten()
        self._read_slots = read_slots.flatten()

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Writes a layer's new KV [rows, kv_heads, query, dim], returns all KV [rows, kv_heads, kv, dim]."""
        shape = self._shapes[layer_idx]
        slot_shape = (shape.num_kv_heads, shape.key_dim + shape.value_dim)
        new = torch.cat((key_states, value_states), dim=-1).transpose(1, 2).reshape(-1, *slot_shape)
        pool = self.pools[layer_idx].index_copy_(0, self._write_slots, new)
        every = pool.index_select(0, self._read_slots).view(self._num_rows, self._kv_len, *slot_shape).transpose(1, 2)
        return every[..., : shape.key_dim], every[..., shape.key_dim :]

    def __len__(self) -> int:
        return len(self.pools)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Number of tokens cached before this pass, of the longest row."""
        return self._kv_len - self._query_len

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        """Length and offset of the keys that a pass attends to."""
        return self._kv_len, 0

    def get_query_offset(self, layer_idx: int = 0) -> int:
        """Position of the first new token, of the longest row."""
        return self._kv_len - self._query_len

    @property
    def is_sliding(self) -> list[bool]:
        """One a layer; always full attention."""
        return [False] * len(self.pools)

    @property
    def is_compileable(self) -> bool:
        """Shapes change with every pass."""
        return False
