"""A language model as classifier: a head on the LLM's hidden state at the end of the prompt.

Source: arXiv:2406.18665 §4.2; deviation: the head is trained, the language model under it stays as it is.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from evaluation.query_routing.queries import QuerySet
from evaluation.query_routing.training import ClassifierTraining, Scaling, predict, train_classifier

_WIDTH = 64
_TRAINING = ClassifierTraining(learning_rate=1e-3, weight_decay=1e-1)


class _Head(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.inner = nn.Linear(size, _WIDTH)
        self.dropout = nn.Dropout(0.2)
        self.head = nn.Linear(_WIDTH, 1)

    def forward(self, state: Tensor) -> Tensor:
        """Maps f32 [batch, size] to logits f32 [batch]."""
        logit: Tensor = self.head(self.dropout(nn.functional.gelu(self.inner(state)))).squeeze(-1)
        return logit


class LlmClassifierRouter:
    """A language model as classifier."""

    name = "qr_llm"

    def fit(self, queries: QuerySet, needs_llm: Tensor, seed: int) -> None:
        """Trains the head."""
        torch.manual_seed(seed)
        states = self._states(queries)
        self._scaling = Scaling.measure(states)
        self._model = _Head(states.size(1))
        train_classifier(self._model, self._scaling.apply(states), needs_llm, _TRAINING, seed)

    def scores(self, queries: QuerySet) -> Tensor:
        """Logits."""
        return predict(self._model, self._scaling.apply(self._states(queries)))

    @staticmethod
    def _states(queries: QuerySet) -> Tensor:
        return torch.cat([queries.last_state, queries.mean_state], dim=1)
