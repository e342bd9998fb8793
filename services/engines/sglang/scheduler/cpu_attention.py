"""Attention of extends on a CPU, at a cost that follows the new tokens.

SGLang's `torch_native` backend pads the queries of an extend to the length of the whole prefix. That squares the cost
of the short extends that routing lives on. Everything but plain causal extends stays with it.
"""

from __future__ import annotations

from typing import Any

import torch
from sglang.srt.layers.attention.torch_native_backend import TorchNativeAttnBackend
from sglang.srt.layers.radix_attention import AttentionType
from sglang.srt.mem_cache.memory_pool import KVWriteLoc
from torch.nn.functional import scaled_dot_product_attention


class CpuAttention(TorchNativeAttnBackend):  # type: ignore[misc]
    """`torch_native` with extends that compute their new queries only."""

    def forward_extend(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        layer: Any,
        forward_batch: Any,
        save_kv_cache: bool = True,
    ) -> torch.Tensor:
        """Attends from the new tokens of each sequence to its prefix and to themselves.

        Args:
            q: [num_tokens, num_heads * head_dim], the new tokens of all sequences.
            k: Keys of the new tokens.
            v: Values of the new tokens.
            layer: SGLang's attention layer.
            forward_batch: SGLang's batch.
            save_kv_cache: Whether the keys and values have yet to be written.
        """
        window = layer.sliding_window_size
        is_plain = layer.attn_type == AttentionType.DECODER and not layer.is_cross_attention
        if not is_plain or forward_batch.encoder_lens is not None or (window is not None and window > -1):
            output: torch.Tensor = super().forward_extend(q, k, v, layer, forward_batch, save_kv_cache)
            return output
        if save_kv_cache:
            self.token_to_kv_pool.set_kv_buffer(layer, KVWriteLoc(forward_batch.out_cache_loc, None), k, v)
        keys = self.token_to_kv_pool.get_key_buffer(layer.layer_id)
        values = self.token_to_kv_pool.get_value_buffer(layer.layer_id)
        queries = torch.split(q.view(-1, layer.tp_q_head_num, layer.qk_head_dim), forward_batch.extend_seq_lens_cpu)
        rows = []
        for query, prefix_len, pool_index in zip(
            queries, forward_batch.extend_prefix_lens_cpu, forward_batch.req_pool_indices.tolist(), strict=True
        ):
            slots = self.req_to_token_pool.req_to_token[pool_index, : prefix_len + len(query)]
            rows.append(_attend(query, keys[slots], values[slots], layer.scaling))
        return torch.cat(rows).flatten(1)


def _attend(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scaling: float) -> torch.Tensor:
    """[new, heads, dim] queries, the last of [total, kv_heads, dim] keys and values."""
    num_new, num_total = len(query), len(keys)
    mask = None
    if 1 < num_new < num_total:
        mask = torch.ones(num_new, num_total, dtype=torch.bool).tril(num_total - num_new)
    output = scaled_dot_product_attention(
        query.movedim(0, 1).unsqueeze(0),
        keys.to(query.dtype).movedim(0, 1).unsqueeze(0),
        values.to(query.dtype).movedim(0, 1).unsqueeze(0),
        attn_mask=mask,
        is_causal=num_new == num_total and num_new > 1,
        scale=scaling,
        enable_gqa=query.shape[1] != keys.shape[1],
    )
    return output.squeeze(0).movedim(1, 0)
