"""The tensors of one forward pass.

Owns padding and masks. Rows are padded at the right, new tokens and keys alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from services.engines.transformers.block_manager import BLOCK_LEN, PADDING_BLOCK


@dataclass(frozen=True, slots=True)
class Row:
    """New tokens of one sequence.

    Args:
        token_ids: The new tokens, at least one.
        slots: int64 [start + len(token_ids)], pool slots of the whole sequence, new tokens included.
        output_offsets: Which of the new tokens' outputs are wanted, ascending.
    """

    token_ids: Sequence[int]
    slots: NDArray[np.int64]
    output_offsets: Sequence[int]


@dataclass(frozen=True, slots=True)
class ForwardBatch:
    """One pass.

    Args:
        input_ids: [rows, query] int64.
        position_ids: [rows, query] int64.
        write_slots: [rows, query] int64; padding goes to the padding block.
        read_slots: [rows, kv] int64.
        attention_mask: Additive [rows, 1, query, kv], or None if every query sees every key.
        output_index: [outputs] int64 into the flattened [rows * query], or None if all are wanted.
    """

    input_ids: Tensor
    position_ids: Tensor
    write_slots: Tensor
    read_slots: Tensor
    attention_mask: Tensor | None
    output_index: Tensor | None


def build_batch(rows: Sequence[Row], dtype: torch.dtype, device: torch.device) -> ForwardBatch:
    """Pads rows into one pass.

    Args:
        rows: At least one.
        dtype: Type of the mask, the model's.
        device: Where the tensors go.
    """
    query_lens = [len(row.token_ids) for row in rows]
    kv_lens = [len(row.slots) for row in rows]
    query_len, kv_len = max(query_lens), max(kv_lens)
    input_ids = np.zeros((len(rows), query_len), dtype=np.int64)
    position_ids = np.zeros_like(input_ids)
    write_slots = np.full_like(input_ids, PADDING_BLOCK * BLOCK_LEN)
    read_slots = np.full((len(rows), kv_len), PADDING_BLOCK * BLOCK_LEN, dtype=np.int64)
    output_index: list[int] = []
    for index, (row, num_new, num_all) in enumerate(zip(rows, query_lens, kv_lens, strict=True)):
        input_ids[index, :num_new] = row.token_ids
        # Padding goes on counting from the row's start: it sees real keys, and its output is thrown away.
        position_ids[index] = np.arange(num_all - num_new, num_all - num_new + query_len)
        write_slots[index, :num_new] = row.slots[num_all - num_new :]
        read_slots[index, :num_all] = row.slots
        output_index.extend(index * query_len + offset for offset in row.output_offsets)
    np.minimum(position_ids, kv_len - 1, out=position_ids)

    positions = torch.from_numpy(position_ids).to(device)
    mask = None
    if query_len > 1 or min(kv_lens) < kv_len:
        hidden = torch.arange(kv_len, device=device) > positions[:, None, :, None]
        mask = torch.zeros(hidden.shape, dtype=dtype, device=device).masked_fill_(hidden, torch.finfo(dtype).min)
    all_wanted = len(output_index) == input_ids.size
    return ForwardBatch(
        input_ids=torch.from_numpy(input_ids).to(device),
        position_ids=positions,
        write_slots=torch.from_numpy(write_slots).to(device),
        read_slots=torch.from_numpy(read_slots).to(device),
        attention_mask=mask,
        output_index=None if all_wanted else torch.tensor(output_index, dtype=torch.int64, device=device),
    )
