"""Attention for few queries on many keys.

Owns one attention function and its name. `transformers` repeats keys and values for every query head of a group when
there is a mask; here the heads of a group become further queries of their key head, and nothing is copied.
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
    **kwargs: object,
) -> tuple[Tensor, None]:
    """Scaled dot product attention with grouped heads.

    Args:
        module: The attention module; tells how many query heads share a key head.
        query: [rows, heads, query, dim].
        key: [rows, kv_heads, kv, dim].
        value: [rows, kv_heads, kv, value_dim].
        attention_mask: Additive, [rows, 1, query, kv]; None if every query sees every key.
        scaling: Factor of the products.
        **kwargs: What other attention functions take.

    Returns:
        [rows, query, heads, value_dim], and None for the weights.
    """
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
    return output.reshape(num_rows, num_heads, query_len, -1).transpose(1, 2).contiguous(), None


AttentionInterface.register(GROUPED_ATTENTION, grouped_attention)
