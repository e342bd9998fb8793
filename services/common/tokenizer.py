"""Loads a pair's tokenizer and identifies it.

Owns the fingerprint by which services check that they belong together. Doesn't need torch.
"""

from __future__ import annotations

import hashlib
import json

from transformers import AutoTokenizer, PreTrainedTokenizerFast


def load_tokenizer(model: str, revision: str = "") -> PreTrainedTokenizerFast:
    """Loads the fast tokenizer of a model.

    Args:
        model: Hugging Face id or local directory.
        revision: Hugging Face revision; empty for the default.

    Raises:
        ValueError: There is none, or it isn't a fast tokenizer; the message names the model.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(model, revision=revision or None)
    except OSError as error:
        raise ValueError(f"model {model!r}: no tokenizer could be loaded: {error}") from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ValueError(f"model {model!r}: {type(tokenizer).__name__} is not a fast tokenizer")
    # Without its files, some tokenizer classes come up with an all but empty vocabulary instead of an error.
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
