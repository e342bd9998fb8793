"""What every token of a pass sees, whatever the rows beside it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from services.engines.transformers.forward_batch import ForwardBatch, Row, build_batch

ROW_SLOTS = 100
"""Slots that each row has for itself, from the padding block's end on."""

lens = st.lists(
    st.tuples(st.integers(0, 40), st.integers(1, 20)), min_size=1, max_size=4
)  # of each row, tokens before the pass and in it


def slots_of(index: int, length: int) -> np.ndarray:
    # Not in order, so that a slot isn't mistaken for a position.
    return ROW_SLOTS * (index + 1) + np.arange(length)[::-1].copy()


def batch_of(rows: list[tuple[int, int]], windows: list[int | None], *, packs: bool) -> ForwardBatch:
    made = [
        Row(list(range(num_new)), slots_of(index, start + num_new), range(num_new))
        for index, (start, num_new) in enumerate(rows)
    ]
    return build_batch(made, torch.float32, torch.device("cpu"), packs=packs, windows=windows)


@given(rows=lens, windows=st.lists(st.none() | st.integers(1, 30), min_size=1, max_size=2), packs=st.booleans())
def test_token_sees_the_window_that_ends_with_it_and_nothing_else(
    rows: list[tuple[int, int]], windows: list[int | None], packs: bool
) -> None:
    batch = batch_of(rows, windows, packs=packs)
    assert len(batch.views) == len(windows)
    for view, window in zip(batch.views, windows, strict=True):
        for index, (start, num_new) in enumerate(rows):
            slots = slots_of(index, start + num_new)
            for offset in range(num_new):
                end = start + offset + 1
                seen = view.read_slots[index]
                if view.attention_mask is not None:
                    seen = seen[view.attention_mask[index, 0, offset] == 0]
                assert seen.tolist() == slots[0 if window is None else max(0, end - window) : end].tolist()


@given(rows=lens, window=st.integers(1, 30))
def test_padding_sees_a_real_key_in_every_view(rows: list[tuple[int, int]], window: int) -> None:
    for view in batch_of(rows, [None, window], packs=False).views:
        if view.attention_mask is not None:
            assert ((view.attention_mask == 0) & (view.read_slots >= ROW_SLOTS)[:, None, None]).any(dim=-1).all()


@pytest.mark.parametrize(("num_new", "num_seen"), [(1, 8), (5, 12)])
def test_layers_with_a_window_read_no_more_than_it_takes(num_new: int, num_seen: int) -> None:
    full, local = batch_of([(40, num_new)], [None, 8], packs=True).views
    assert full.read_slots.shape == (1, 40 + num_new)
    assert local.read_slots.shape == (1, num_seen)


def test_masks_are_in_all_views_or_in_none() -> None:
    assert all(view.attention_mask is None for view in batch_of([(40, 1), (40, 1)], [None, 8], packs=True).views)
    # Of these two rows the window hides the difference, but not from layers of full attention.
    assert all(view.attention_mask is not None for view in batch_of([(40, 1), (20, 1)], [None, 8], packs=True).views)
