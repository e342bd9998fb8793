"""The KV of all sequences, and the view of it that a Hugging Face model reads and writes.

Owns the tensors. Which block belongs to whom is the block manager's business.

A layer's pool is [slots, kv_heads, key_dim + value_dim]; slot = block * block_len + offset. Keys and values lie side
by side, so that one copy writes and one copy gathers both.

Every layer keeps every token of a sequence, those that attend to a window too: a sequence can be rewound to any
length, and shares its prefix with others, whatever its layers see of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers.cache_utils import Cache

FULL_ATTENTION, SLIDING_ATTENTION = "full_attention", "sliding_attention"
"""Types of layers, as configurations name them."""


@dataclass(frozen=True, slots=True)
class LayerShape:
    """What one layer caches a token, and how it attends to them."""

    num_kv_heads: int
    key_dim: int
    value_dim: int
    layer_type: str = FULL_ATTENTION


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
        layer_types: Those that occur, full attention first; a pass has a view for each.
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
        self.layer_types = sorted({shape.layer_type for shape in shapes})
        self._view_of_layer = [self.layer_types.index(shape.layer_type) for shape in shapes]
        self._query_len = 0
        self._write_slots = torch.empty(0, dtype=torch.int64)
        self._read_slots: list[Tensor] = []
        self._num_rows = 0
        self._kv_lens: list[int] = []

    def aim(self, write_slots: Tensor, read_slots: Sequence[Tensor]) -> None:
        """Sets the slots of the next pass.

        Args:
            write_slots: [rows, query] int64, where the new tokens' KV goes.
            read_slots: [rows, kv] int64 for each of `layer_types`, what each row attends to, new tokens included,
                padded at the right.
        """
        self._query_len = write_slots.shape[1]
        self._write_slots = write_slots.flatten()
        self._num_rows = read_slots[0].shape[0]
        self._kv_lens = [slots.shape[1] for slots in read_slots]
        self._read_slots = [slots.flatten() for slots in read_slots]

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Writes a layer's new KV [rows, kv_heads, query, dim], returns what it sees [rows, kv_heads, kv, dim]."""
        shape = self._shapes[layer_idx]
        slot_shape = (shape.num_kv_heads, shape.key_dim + shape.value_dim)
        new = torch.cat((key_states, value_states), dim=-1).transpose(1, 2).reshape(-1, *slot_shape)
        pool = self.pools[layer_idx].index_copy_(0, self._write_slots, new)
        read_slots = self._read_slots[self._view_of_layer[layer_idx]]
        every = pool.index_select(0, read_slots).view(self._num_rows, self._kv_len(layer_idx), *slot_shape)
        every = every.transpose(1, 2)
        return every[..., : shape.key_dim], every[..., shape.key_dim :]

    def __len__(self) -> int:
        return len(self.pools)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Number of tokens that a layer sees of those before this pass, of the longest row."""
        return self._kv_len(layer_idx) - self._query_len

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        """Length and offset of the keys that a pass attends to."""
        return self._kv_len(layer_idx), 0

    def get_query_offset(self, layer_idx: int = 0) -> int:
        """Where the first new token stands among the keys, in the longest row."""
        return self._kv_len(layer_idx) - self._query_len

    @property
    def is_sliding(self) -> list[bool]:
        """One a layer: whether it attends to a window."""
        return [shape.layer_type == SLIDING_ATTENTION for shape in self._shapes]

    @property
    def is_compileable(self) -> bool:
        """Shapes change with every pass."""
        return False

    def _kv_len(self, layer_idx: int) -> int:
        return self._kv_lens[self._view_of_layer[layer_idx]]
