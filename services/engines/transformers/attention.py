"""Attention for few queries on many keys.

Owns one attention function and its name. `transformers` repeats keys and values for every query head of a group when
there is a mask; here the heads of a group become further queries of their key head, and nothing is copied. Queries of
rows of different lengths may come packed into one row, and leave so.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import AttentionInterface

GROUPED_ATTENTION = "trivium_grouped"
"""Name under which `transformers` knows the function."""


def grouped_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    packed_index: Tensor | None = None,
    **kwargs: object,
) -> tuple[Tensor, None]:
    """Scaled dot product attention with grouped heads.

    Args:
        module: The attention module; tells how many query heads share a key head.
        query: [rows, heads, query, dim]; [1, heads, total, dim] if packed.
        key: [rows, kv_heads, kv, dim].
        value: [rows, kv_heads, kv, value_dim].
        attention_mask: Additive, [rows, 1, query, kv]; None if every query sees every key.
        scaling: Factor of the products.
        packed_index: [total] int64, where the packed queries lie in the flattened [rows * query] of the mask.
        **kwargs: What other attention functions take.

    Returns:
        [rows, query, heads, value_dim], or [1, total, heads, value_dim] if packed, and None for the weights.
    """
    if packed_index is not None and attention_mask is not None:
        query = _unpack(query, packed_index, attention_mask)
    num_rows, num_heads, query_len, _dim = query.shape
    # Asked of the module, not of the shapes: a tracer forgives no choice that depends on a shape.
    num_groups = getattr(module, "num_key_value_groups", 1)
    if num_groups > 1:
        query = query.reshape(num_rows, key.shape[1], num_groups * query_len, -1)
        if attention_mask is not None:
            attention_mask = attention_mask.repeat(1, 1, num_groups, 1)
    output = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=attention_mask, scale=scaling
    )
    output = output.reshape(num_rows, num_heads, query_len, -1).transpose(1, 2)
    if packed_index is not None:
        return output.flatten(0, 1).index_select(0, packed_index).unsqueeze(0), None
    return output.contiguous(), None


def _unpack(query: Tensor, packed_index: Tensor, attention_mask: Tensor) -> Tensor:
    """[1, heads, total, dim] as [rows, heads, query, dim], zeros where no query is."""
    num_rows, _one, query_len, _kv = attention_mask.shape
    _one, num_heads, _total, dim = query.shape
    rows = query.new_zeros((num_rows * query_len, num_heads, dim))
    rows = rows.index_copy(0, packed_index, query[0].transpose(0, 1))
    return rows.view(num_rows, query_len, num_heads, dim).transpose(1, 2)


AttentionInterface.register(GROUPED_ATTENTION, grouped_attention)
