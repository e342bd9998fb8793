"""Loads a pair's tokenizer and identifies it.

Owns the fingerprint by which services check that they belong together. Doesn't need torch.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from tokenizers import pre_tokenizers
from transformers import PreTrainedTokenizerFast

_MAX_TOKEN_BYTES_UNKNOWN = 128
# Three Hangul letters of three bytes each become one syllable of three.
_NFC_FACTOR = 3


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
    # A tokenizer.json may say how texts were cut and filled up for training.
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    return tokenizer


def max_token_bytes(tokenizer: PreTrainedTokenizerFast) -> int:
    """Tells how many bytes of text one token stands for at most, so that text can be bounded before it is tokenized.

    It is the longest token of a tokenizer that spells every byte of a text, as byte-level BPE does. Of others no such
    number exists: they may have one token for any unknown word, or drop spaces. Theirs is a number that no language
    comes near on average.
    """
    vocabulary = tokenizer.get_vocab()
    longest = max(len(token.encode()) for token in vocabulary)
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    if _spells_every_byte(state, vocabulary):
        return longest * (_NFC_FACTOR if state["normalizer"] else 1)
    return max(longest, _MAX_TOKEN_BYTES_UNKNOWN)


def _spells_every_byte(state: dict[str, Any], vocabulary: dict[str, int]) -> bool:
    splitter = state["pre_tokenizer"] or {}
    parts = splitter["pretokenizers"] if splitter.get("type") == "Sequence" else [splitter]
    return (
        state["model"]["type"] == "BPE"
        and (state["normalizer"] or {"type": "NFC"}) == {"type": "NFC"}
        and any(part.get("type") == "ByteLevel" for part in parts)
        and all(part.get("behavior") != "Removed" for part in parts)
        # A byte without a token of its own would be dropped.
        and vocabulary.keys() >= set(pre_tokenizers.ByteLevel.alphabet())
        and not any(token["lstrip"] or token["rstrip"] for token in state["added_tokens"])
    )


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
