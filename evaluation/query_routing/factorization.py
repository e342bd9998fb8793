"""Matrix factorisation: a model's quality on a query is a product of learned vectors of both.

Source: arXiv:2406.18665 §4.2; deviation: embeddings are the mean hidden state of the pair's LLM.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from evaluation.query_routing.queries import QuerySet
from evaluation.query_routing.training import ClassifierTraining, Scaling, predict, train_classifier

_WIDTH = 32
_TRAINING = ClassifierTraining(learning_rate=3e-3, weight_decay=1e-2)


class _Factors(nn.Module):
    """Logit of "the LLM wins": the difference of both models' quality on a query."""

    def __init__(self, embedding_size: int) -> None:
        super().__init__()
        self.project = nn.Linear(embedding_size, _WIDTH)
        self.models = nn.Embedding(2, _WIDTH)
        self.quality = nn.Linear(_WIDTH, 1)

    def forward(self, embedding: Tensor) -> Tensor:
        """Maps f32 [batch, embedding] to f32 [batch]."""
        query = self.project(embedding)
        slm, llm = (self.quality(query * self.models.weight[model]).squeeze(-1) for model in (0, 1))
        logit: Tensor = llm - slm
        # The difference has no constant term of its own: which model wins on average lies in the factors.
        return logit


class FactorizationRouter:
    """Matrix factorisation."""

    name = "qr_mf"

    def fit(self, queries: QuerySet, needs_llm: Tensor, seed: int) -> None:
        """Trains the factors."""
        torch.manual_seed(seed)
        self._scaling = Scaling.measure(queries.mean_state)
        self._model = _Factors(queries.mean_state.size(1))
        train_classifier(self._model, self._scaling.apply(queries.mean_state), needs_llm, _TRAINING, seed)

    def scores(self, queries: QuerySet) -> Tensor:
        """Logits."""
        return predict(self._model, self._scaling.apply(queries.mean_state))
