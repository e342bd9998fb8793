"""Stage 3: from every differing SLM token the LLM writes on to the end of the sentence.

Source: arXiv:2505.21600 §3.1 (sentence-level path-following). deviation: every prefix is prefilled anew; sharing
prefixes among the continuations of one response is left to engines that cache them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, StoppingCriteria

from labeler_jobs.models import generate_ids, length_batches
from labeler_jobs.sentence import sentence_end


@dataclass(frozen=True)
class Fork:
    """A point where the SLM would have written another token than the LLM.

    Attributes:
        prompt: Prompt token ids.
        prefix: The LLM's response before the differing token.
        slm_token_id: What the SLM writes there.
    """

    prompt: Sequence[int]
    prefix: Sequence[int]
    slm_token_id: int


class _SentenceEnded(StoppingCriteria):
    """Ends a row once its text, read from the fork on, holds the end of a sentence."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, first: int) -> None:
        self._tokenizer = tokenizer
        self._first = first

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: object) -> Tensor:
        texts = self._tokenizer.batch_decode(input_ids[:, self._first :], skip_special_tokens=False)
        return torch.tensor([sentence_end(text) is not None for text in texts])


def continue_sentences(
    llm: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    forks: Sequence[Fork],
    max_new_tokens: int = 48,
    batch_size: int = 128,
) -> list[list[int]]:
    """Let the LLM finish the sentence after each fork, greedily.

    Args:
        llm: The large model.
        tokenizer: The pair's tokenizer.
        forks: Where to start; a fork whose SLM token is EOS is not continued.
        max_new_tokens: Limit of a continuation, in tokens.
        batch_size: Forks that are decoded together.

    Returns:
        For each fork, in order, the token ids after the SLM's token. The last of them may lie just past the
        sentence's end, because a full stop ends a sentence only with what follows it.
    """
    eos = llm.generation_config.eos_token_id
    continuations: list[list[int]] = [[] for _ in forks]
    open_rows = [row for row, fork in enumerate(forks) if fork.slm_token_id != eos]
    lengths = [len(forks[row].prompt) + len(forks[row].prefix) for row in open_rows]
    for group in length_batches(lengths, batch_size):
        rows = [open_rows[at] for at in group]
        for row, written in zip(rows, _continue_batch(llm, tokenizer, [forks[r] for r in rows], max_new_tokens),
                                strict=True):  # fmt: skip
            continuations[row] = written
    return continuations


def _continue_batch(
    llm: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, forks: Sequence[Fork], max_new_tokens: int
) -> list[list[int]]:
    rows = [[*fork.prompt, *fork.prefix, fork.slm_token_id] for fork in forks]
    ended = _SentenceEnded(tokenizer, max(map(len, rows)) - 1)
    skipped = (llm.generation_config.pad_token_id, llm.generation_config.eos_token_id)
    written = generate_ids(llm, rows, max_new_tokens, ended)
    return [[token_id for token_id in row if token_id not in skipped] for row in written]
