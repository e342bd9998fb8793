"""Random models that are small enough for every test, with a tokenizer, in Hugging Face folders."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedTokenizerFast, Qwen2Config

VOCAB_SIZE = 320
CONTEXT_LEN = 256
EOS_TOKEN_ID = 7


def write_model(folder: Path, config: PreTrainedConfig, seed: int) -> Path:
    """Random weights for a configuration, and a tokenizer of `VOCAB_SIZE` words."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    model.save_pretrained(folder)
    vocabulary = {f"t{index}": index for index in range(VOCAB_SIZE)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="t0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    make_fast: type = PreTrainedTokenizerFast
    make_fast(tokenizer_object=tokenizer, eos_token=f"t{EOS_TOKEN_ID}").save_pretrained(folder)
    return folder


def write_tiny_model(folder: Path, *, hidden_size: int, num_layers: int, num_heads: int, num_kv_heads: int) -> Path:
    config = Qwen2Config(
        vocab_size=VOCAB_SIZE,
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=num_layers,
        num_attention_heads=num_heads,
        num_key_value_heads=num_kv_heads,
        max_position_embeddings=CONTEXT_LEN,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=EOS_TOKEN_ID,
        # Wide enough that logits differ by far more than rounding.
        initializer_range=0.4,
    )
    return write_model(folder, config, seed=hidden_size)


def write_tiny_slm(folder: Path) -> Path:
    return write_tiny_model(folder, hidden_size=32, num_layers=2, num_heads=2, num_kv_heads=2)


def write_tiny_llm(folder: Path) -> Path:
    return write_tiny_model(folder, hidden_size=64, num_layers=3, num_heads=4, num_kv_heads=2)
