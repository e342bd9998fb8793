"""Queries as query-level routers see them: prompts, and their embeddings by a language model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel

from labeler_jobs.models.huggingface import length_batches

_BATCH_SIZE = 64


@dataclass(frozen=True)
class QuerySet:
    """Queries of one set.

    Attributes:
        prompts: Prompt token ids.
        mean_state: f32 [queries, hidden], a language model's final hidden state, averaged over the prompt.
        last_state: f32 [queries, hidden], the same at the prompt's last token.
    """

    prompts: tuple[tuple[int, ...], ...]
    mean_state: Tensor
    last_state: Tensor

    def __len__(self) -> int:
        """Counts queries."""
        return len(self.prompts)


class QueryRouter(Protocol):
    """Scores queries by how much they need the LLM."""

    name: str

    def fit(self, queries: QuerySet, needs_llm: Tensor, seed: int) -> None:
        """Learns from outcomes.

        Args:
            queries: Training queries.
            needs_llm: f32 [queries], 1 where the LLM answers rightly and the SLM doesn't.
            seed: Of whatever is drawn.
        """
        ...

    def scores(self, queries: QuerySet) -> Tensor:
        """Scores queries: f32 [queries], larger where the LLM is needed more."""
        ...


@torch.inference_mode()
def embed_queries(model: PreTrainedModel, prompts: Sequence[Sequence[int]]) -> QuerySet:
    """Embeds prompts.

    Args:
        model: A causal language model, in float32.
        prompts: Prompt token ids, at least one each.
    """
    size = model.config.hidden_size
    mean_state, last_state = torch.zeros(len(prompts), size), torch.zeros(len(prompts), size)
    for rows in length_batches([len(prompt) for prompt in prompts], _BATCH_SIZE):
        lengths = torch.tensor([len(prompts[row]) for row in rows])
        token_ids = pad_right([prompts[row] for row in rows], 0)
        # Under a causal mask, padding on the right reaches nothing that is read.
        states: Tensor = model.base_model(input_ids=token_ids, use_cache=False).last_hidden_state
        real = torch.arange(token_ids.size(1)) < lengths[:, None]
        mean_state[rows] = (states * real[:, :, None]).sum(dim=1) / lengths[:, None]
        last_state[rows] = states[torch.arange(len(rows)), lengths - 1]
    return QuerySet(tuple(tuple(prompt) for prompt in prompts), mean_state, last_state)


def pad_right(sequences: Sequence[Sequence[int]], pad_token_id: int) -> Tensor:
    """Aligns sequences at their start: i64 [sequences, longest]."""
    padded = torch.full((len(sequences), max(map(len, sequences))), pad_token_id, dtype=torch.long)
    for row, sequence in enumerate(sequences):
        padded[row, : len(sequence)] = torch.tensor(sequence)
    return padded
