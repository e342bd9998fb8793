"""Loads a pair's tokenizer and identifies it.

Owns the fingerprint by which services check that they belong together. Doesn't need torch.
"""

from __future__ import annotations

import hashlib
import json

from transformers import PreTrainedTokenizerFast


def load_tokenizer(model: str, revision: str = "") -> PreTrainedTokenizerFast:
    """Loads the tokenizer of a model from its tokenizer.json.

    Args:
        model: Hugging Face id or local directory.
        revision: Hugging Face revision; empty for the default.

    Raises:
        ValueError: There is none, or it is damaged or empty; the message names the model.
    """
    try:
        # Not AutoTokenizer: for some architectures it builds its own rules, whatever tokenizer.json says.
        tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(
            model, revision=revision or "main"
        )
    except (OSError, ValueError) as error:
        raise ValueError(f"model {model!r}: tokenizer.json can't be loaded: {error}") from error
    if tokenizer.backend_tokenizer.get_vocab_size(with_added_tokens=False) < 2:
        raise ValueError(f"model {model!r}: tokenizer.json: there is no vocabulary")
    return tokenizer


def tokenizer_sha256(tokenizer: PreTrainedTokenizerFast) -> str:
    """Fingerprints what maps text to ids: vocabulary, merges, normalizer, pre-tokenizer and added tokens.

    Chat template, padding and truncation don't count, since they don't change the meaning of an id.

    Returns:
        SHA-256 of the canonical JSON, in hex.
    """
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    identity = {key: state[key] for key in ("model", "normalizer", "pre_tokenizer", "added_tokens")}
    canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()
