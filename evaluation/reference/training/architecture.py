"""Sizes of the pair's models and of the one between them: Qwen2 configurations that any Hugging Face loader reads."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM

from evaluation.reference.training.tokenizer import CONTEXT_LENGTH, VOCAB_SIZE

Role = Literal["slm", "mid", "llm"]

HEAD_SIZE = 64
_SIZES: dict[Role, dict[str, int]] = {
    "llm": {
        "hidden_size": 256,
        "intermediate_size": 704,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
    # A baseline: what distillation makes of a size between the two.
    "mid": {
        "hidden_size": 96,
        "intermediate_size": 256,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
    },
    "slm": {
        "hidden_size": 24,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 1,
        "num_key_value_heads": 1,
    },
}


def build_model(role: Role, pad_token_id: int, eos_token_id: int) -> Qwen2ForCausalLM:
    """Builds an untrained model in float32; initial weights follow torch's current seed.

    Args:
        role: Which model.
        pad_token_id: Id that batches are padded with.
        eos_token_id: Id that ends a response.

    Returns:
        The model, with greedy generation as its default.
    """
    fields: dict[str, Any] = {
        "vocab_size": VOCAB_SIZE,
        "max_position_embeddings": CONTEXT_LENGTH,
        "head_dim": HEAD_SIZE,
        "tie_word_embeddings": True,
        "pad_token_id": pad_token_id,
        "eos_token_id": eos_token_id,
        "bos_token_id": None,
        "dtype": torch.float32,
        **_SIZES[role],
    }
    make_model: Callable[[Qwen2Config], Qwen2ForCausalLM] = Qwen2ForCausalLM
    make_generation: Callable[..., GenerationConfig] = GenerationConfig
    model = make_model(Qwen2Config(**fields))
    model.generation_config = make_generation(
        do_sample=False, pad_token_id=pad_token_id, eos_token_id=eos_token_id, bos_token_id=None
    )
    return model
