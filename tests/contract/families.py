"""Tiny random models of the families that people have, with windows that a short text reaches beyond."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers import (
    Gemma2Config,
    Gemma3TextConfig,
    GptOssConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from tests.contract.tiny_models import CONTEXT_LEN, EOS_TOKEN_ID, VOCAB_SIZE

WINDOW = 9
"""Tokens that a layer of sliding attention sees: no divisor of a block, a chunk or a context."""

_GEMMA_TYPES = ["sliding_attention", "sliding_attention", "full_attention"]
_HALF_SLIDING: dict[str, Any] = {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1}
_CONFIGS: dict[str, Callable[..., PreTrainedConfig]] = {
    "llama": LlamaConfig,
    "qwen2": lambda **fields: Qwen2Config(**fields, **_HALF_SLIDING),
    "qwen3": lambda **fields: Qwen3Config(**fields, **_HALF_SLIDING),
    # Local layers with a rotary base of their own, scaled embeddings.
    "gemma3": lambda **fields: Gemma3TextConfig(
        **fields, sliding_window=WINDOW, layer_types=_GEMMA_TYPES, query_pre_attn_scalar=8
    ),
    "mistral": lambda **fields: MistralConfig(**fields, sliding_window=WINDOW),
    # Capped attention scores and capped logits; low, so that the caps matter.
    "gemma2": lambda **fields: Gemma2Config(
        **fields,
        sliding_window=WINDOW,
        layer_types=_GEMMA_TYPES,
        query_pre_attn_scalar=8,
        attn_logit_softcapping=2.0,
        final_logit_softcapping=5.0,
    ),
    # Attention sinks, and a mixture of experts.
    "gpt-oss": lambda **fields: GptOssConfig(
        **fields, sliding_window=WINDOW, num_local_experts=4, num_experts_per_tok=2
    ),
}
FAMILIES = tuple(_CONFIGS)
"""Names of the families."""
SLIDING_FAMILIES = tuple(name for name in FAMILIES if name != "llama")
"""Those whose models have a window here."""


def family_config(name: str, **fields: Any) -> PreTrainedConfig:
    """A model of a family: three layers, heads that share keys, weights so wide that logits differ clearly."""
    sizes: dict[str, Any] = {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": CONTEXT_LEN,
        # Gemma's embeddings are scaled up: were random ones tied, each token would be followed by itself.
        "tie_word_embeddings": not name.startswith("gemma"),
        "initializer_range": 0.4,
        "bos_token_id": None,
        "eos_token_id": EOS_TOKEN_ID,
        "pad_token_id": None,
    }
    return _CONFIGS[name](**{**sizes, **fields})
