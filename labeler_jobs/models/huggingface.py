"""Typed access to the few things that labelling and evaluation need of a Hugging Face model and tokenizer."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast


def output_logits(model: PreTrainedModel, hidden_state: Tensor) -> Tensor:
    """Maps final hidden states to raw logits.

    Args:
        model: A causal language model.
        hidden_state: f32 [..., hidden], after the final norm.

    Returns:
        f32 [..., vocab].
    """
    head: Callable[[Tensor], Tensor] = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    return head(hidden_state)


def generate_ids(model: PreTrainedModel, sequences: Sequence[Sequence[int]], max_new_tokens: int) -> list[list[int]]:
    """Extends sequences greedily, all in one batch.

    Args:
        model: A causal language model whose generation config names its pad and EOS ids.
        sequences: Token ids to extend.
        max_new_tokens: Limit of new tokens.

    Returns:
        New token ids of each row; rows that ended early are padded.
    """
    token_ids, mask = pad_left(sequences, model.generation_config.pad_token_id)
    output: Tensor = model.generate(  # type: ignore[operator]
        token_ids,
        attention_mask=mask,
        max_new_tokens=max_new_tokens,
        do_sample=False,
    )
    written: list[list[int]] = output[:, token_ids.size(1) :].tolist()
    return written


def decode_text(tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int]) -> str:
    """Turns token ids into text, special tokens included."""
    return str(tokenizer.decode(list(token_ids)))


def pad_left(sequences: Sequence[Sequence[int]], pad_token_id: int) -> tuple[Tensor, Tensor]:
    """Aligns sequences at their end.

    Args:
        sequences: Token ids.
        pad_token_id: Id that fills rows on the left.

    Returns:
        Token ids i64 [batch, longest] and mask i64 [batch, longest], 1 where a token is real.
    """
    width = max(map(len, sequences))
    token_ids = torch.full((len(sequences), width), pad_token_id, dtype=torch.long)
    mask = torch.zeros_like(token_ids)
    for row, sequence in enumerate(sequences):
        token_ids[row, width - len(sequence) :] = torch.tensor(sequence)
        mask[row, width - len(sequence) :] = 1
    return token_ids, mask


def length_batches(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Groups rows of similar length.

    Args:
        lengths: Length of every row.
        batch_size: Rows in a group, at most.

    Returns:
        Row indices, shortest rows first.
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def render_prompt(tokenizer: PreTrainedTokenizerFast, query: str) -> list[int]:
    """Token ids of the chat prompt that asks a query, up to and with the start of the assistant's turn.

    Raises:
        ValueError: The tokenizer has no chat template.
    """
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": query}], tokenize=False, add_generation_prompt=True
    )
    token_ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
    return token_ids
