"""Scores drafts with a router in this process, where no router service runs."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from router_service.model import Router, divergence_probability


@dataclass(frozen=True)
class RouterScorer:
    """A trained router, and what it reads beside a step's features.

    Attributes:
        router: In evaluation mode.
        slm_embedding: f32 [vocab, slm_hidden].
    """

    router: Router
    slm_embedding: Tensor

    def scores(self, hidden_state: Tensor, top_logits: Tensor, token_ids: Tensor) -> Tensor:
        """Scores drafts, one a row.

        Args:
            hidden_state: f32 [rows, slm_hidden], after the final norm.
            top_logits: f32 [rows, 100], the largest raw logits, falling, as engines hand them out.
            token_ids: i64 [rows], the drafts.

        Returns:
            f32 [rows], divergence probabilities in [0, 1].
        """
        read = top_logits[:, : self.router.config.num_top_logits]
        return divergence_probability(self.router(hidden_state, read, self.slm_embedding[token_ids]))
