"""Similarity-weighted ranking: training queries vote, the more alike the more.

With two models, the Bradley-Terry fit of weighted comparisons is the weighted share of those that the LLM won.

Source: arXiv:2406.18665 §4.2; deviation: embeddings are the mean hidden state of the pair's LLM; a seed draws which
training queries vote, as the rule itself draws nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from evaluation.query_routing.queries import QuerySet
from evaluation.query_routing.training import Scaling

_BASE = 10.0
"""Weight of a query of cosine similarity 1, against one of similarity 0."""
_SHARPNESS = 8.0
"""Scales the exponent: prompts of one suite are all alike, which embeddings of open-domain text aren't."""
_VOTING_SHARE = 0.9


class SimilarityRouter:
    """Similarity-weighted ranking."""

    name = "qr_sw"

    def fit(self, queries: QuerySet, needs_llm: Tensor, seed: int) -> None:
        """Remembers the queries that vote, and their outcomes."""
        generator = torch.Generator().manual_seed(seed)
        voters = torch.randperm(len(queries), generator=generator)[: round(_VOTING_SHARE * len(queries))]
        self._scaling = Scaling.measure(queries.mean_state)
        self._voters = self._embed(queries)[voters]
        self._votes = needs_llm[voters]

    def scores(self, queries: QuerySet) -> Tensor:
        """Weighted share of votes for the LLM."""
        weights = _BASE ** (_SHARPNESS * self._embed(queries) @ self._voters.T)
        return (weights @ self._votes) / weights.sum(dim=1)

    def _embed(self, queries: QuerySet) -> Tensor:
        return nn.functional.normalize(self._scaling.apply(queries.mean_state), dim=1)
