"""The tensors of one forward pass.

Owns packing, padding and masks. New tokens of rows of different lengths are packed into one long row, so that no
matrix product sees padding; only attention pads. A model that can't be run so gets rows that are padded at the right,
as keys always are.

Layers that attend to a window are shown no more of a row than the window of its first new token and what follows.
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
class View:
    """What the layers with one window attend to.

    Args:
        read_slots: [rows, kv] int64, the last keys of each row, padded at the right.
        attention_mask: Additive [rows, 1, query, kv], or None if every query sees every key.
    """

    read_slots: Tensor
    attention_mask: Tensor | None


@dataclass(frozen=True, slots=True)
class ForwardBatch:
    """One pass.

    Args:
        input_ids: [rows, query] int64; [1, total] if packed.
        position_ids: int64 like `input_ids`.
        write_slots: int64 like `input_ids`; padding goes to the padding block.
        views: One a window. Either all have a mask or none has.
        packed_index: [total] int64, where the packed tokens lie in the flattened [rows * query]; None if not packed.
        output_index: [outputs] int64 into the flattened `input_ids`, or None if all are wanted.
    """

    input_ids: Tensor
    position_ids: Tensor
    write_slots: Tensor
    views: tuple[View, ...]
    packed_index: Tensor | None
    output_index: Tensor | None


def build_batch(
    rows: Sequence[Row],
    dtype: torch.dtype,
    device: torch.device,
    *,
    packs: bool,
    windows: Sequence[int | None] = (None,),
) -> ForwardBatch:
    """Puts rows into one pass.

    Args:
        rows: At least one.
        dtype: Type of the mask, the model's.
        device: Where the tensors go.
        packs: The model's attention takes a `packed_index`.
        windows: How many keys a query sees, its own included, in each view that is made; None is all before it.
    """
    query_lens = np.array([len(row.token_ids) for row in rows])
    lens = [len(row.slots) for row in rows]
    kv_lens = np.array(lens)
    starts = kv_lens - query_lens
    query_len = int(query_lens.max())
    is_token = np.arange(query_len) < query_lens[:, None]
    # Padding repeats the row's last position: it sees real keys, and its output is thrown away.
    position_ids = np.minimum(starts[:, None] + np.arange(query_len), kv_lens[:, None] - 1)
    input_ids = np.concatenate([row.token_ids for row in rows])
    write_slots = np.concatenate([row.slots[-len(row.token_ids) :] for row in rows])
    mask_dtype = dtype if query_len > 1 or min(lens) < max(lens) else None
    views = tuple(_view(rows, kv_lens, starts, position_ids, window, mask_dtype, device) for window in windows)
    packed_index = None
    if packs and not is_token.all():
        packed_index = torch.from_numpy(np.flatnonzero(is_token)).to(device)
        input_ids, position_ids, write_slots = input_ids[None], position_ids[is_token][None], write_slots[None]
        begins = query_lens.cumsum() - query_lens
    else:
        input_ids = _padded(is_token, input_ids, 0)
        write_slots = _padded(is_token, write_slots, PADDING_BLOCK * BLOCK_LEN)
        begins = np.arange(len(rows)) * query_len
    output_index = np.array(
        [begin + offset for begin, row in zip(begins, rows, strict=True) for offset in row.output_offsets], np.int64
    )
    all_wanted = len(output_index) == input_ids.size
    return ForwardBatch(
        input_ids=torch.from_numpy(input_ids).to(device),
        position_ids=torch.from_numpy(position_ids).to(device),
        write_slots=torch.from_numpy(write_slots).to(device),
        views=views,
        packed_index=packed_index,
        output_index=None if all_wanted else torch.from_numpy(output_index).to(device),
    )


def _padded(is_filled: NDArray[np.bool_], values: NDArray[np.int64], padding: int) -> NDArray[np.int64]:
    """`values` row by row at the places that are filled, `padding` elsewhere."""
    padded = np.full(is_filled.shape, padding, dtype=np.int64)
    padded[is_filled] = values
    return padded


def _view(
    rows: Sequence[Row],
    kv_lens: NDArray[np.int64],
    starts: NDArray[np.int64],
    position_ids: NDArray[np.int64],
    window: int | None,
    mask_dtype: torch.dtype | None,
    device: torch.device,
) -> View:
    """What rows see of themselves whose new tokens begin at `starts`; without a mask if that has no type."""
    slots = [row.slots for row in rows]
    if window is not None:
        begins = np.maximum(starts - window + 1, 0)
        slots = [every[begin:] for every, begin in zip(slots, begins, strict=True)]
        kv_lens, position_ids = kv_lens - begins, position_ids - begins[:, None]
    kv_len = int(kv_lens.max())
    read_slots = _padded(np.arange(kv_len) < kv_lens[:, None], np.concatenate(slots), PADDING_BLOCK * BLOCK_LEN)
    mask = None
    if mask_dtype is not None:
        mask = _causal_mask(torch.from_numpy(position_ids).to(device), kv_len, window, mask_dtype)
    return View(torch.from_numpy(read_slots).to(device), mask)


def _causal_mask(positions: Tensor, kv_len: int, window: int | None, dtype: torch.dtype) -> Tensor:
    """[rows, 1, query, kv] of queries at `positions` [rows, query], counted from the first key."""
    queries, keys = positions[:, None, :, None], torch.arange(kv_len, device=positions.device)
    hidden = keys > queries
    if window is not None:
        hidden |= keys <= queries - window
    return torch.zeros(hidden.shape, dtype=dtype, device=positions.device).masked_fill_(
        hidden, torch.finfo(dtype).min
    )
