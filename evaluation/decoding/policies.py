"""Rules that decide which of the SLM's drafts the LLM rewrites: the neural router and the baselines beside it.

Every rule gives a score; a draft is routed when its score reaches the threshold. Thresholds of all rules are chosen
in the same way, on validation tokens.

Source: arXiv:2505.21600 §4.2 (entropy and aleatoric uncertainty as indicators of divergence).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from router_service.model import Router

NUM_EVIDENCE_LOGITS = 10
"""Logits that aleatoric uncertainty counts as evidence."""


@dataclass(frozen=True)
class DraftBatch:
    """Drafts of the SLM, one a row.

    Attributes:
        top_logits: f32 [rows, 100], the largest raw logits, falling, as engines hand them out.
        hidden_state: f32 [rows, slm_hidden], after the final norm.
        token_ids: i64 [rows], the drafts.
        questions: i64 [rows], number of the question that a row answers.
        positions: i64 [rows], position of the draft in the response.
    """

    top_logits: Tensor
    hidden_state: Tensor
    token_ids: Tensor
    questions: Tensor
    positions: Tensor


class RoutingPolicy(Protocol):
    """Scores drafts."""

    @property
    def num_params(self) -> int:
        """Weights that a draft passes through."""
        ...

    def scores(self, drafts: DraftBatch) -> Tensor:
        """Scores drafts; larger means more likely to be routed.

        Args:
            drafts: At least one row.

        Returns:
            f32 [rows].
        """
        ...


@dataclass(frozen=True)
class RouterPolicy:
    """A trained router's divergence probability.

    Attributes:
        router: In evaluation mode.
        slm_embedding: f32 [vocab, slm_hidden].
    """

    router: Router
    slm_embedding: Tensor

    @property
    def num_params(self) -> int:
        """The router's weights."""
        return self.router.num_parameters

    def scores(self, drafts: DraftBatch) -> Tensor:
        """Divergence probability in [0, 1]."""
        top_logits = drafts.top_logits[:, : self.router.config.num_top_logits]
        logits = self.router(drafts.hidden_state, top_logits, self.slm_embedding[drafts.token_ids])
        return torch.sigmoid(logits)


@dataclass(frozen=True)
class EntropyPolicy:
    """Entropy of the SLM's distribution over the tokens whose logits the router reads: datasets hold these alone."""

    num_params: int = 0

    def scores(self, drafts: DraftBatch) -> Tensor:
        """Entropy in nats."""
        return entropy(drafts.top_logits)


@dataclass(frozen=True)
class AleatoricPolicy:
    """Aleatoric uncertainty of the SLM's logits."""

    num_params: int = 0

    def scores(self, drafts: DraftBatch) -> Tensor:
        """Expected entropy in nats."""
        return aleatoric_uncertainty(drafts.top_logits)


@dataclass(frozen=True)
class RandomPolicy:
    """A random number for each position of each question: the same ones in every run with this seed.

    Attributes:
        seed: Draws other numbers.
    """

    seed: int
    num_params: int = 0

    def scores(self, drafts: DraftBatch) -> Tensor:
        """Uniform in [0, 1)."""
        pairs = zip(drafts.questions.tolist(), drafts.positions.tolist(), strict=True)
        return torch.tensor([self._draw(question, position) for question, position in pairs])

    def _draw(self, question: int, position: int) -> float:
        counter = np.array([position, question, 0, 0], dtype=np.uint64)
        return float(np.random.Generator(np.random.Philox(key=self.seed, counter=counter)).random(dtype=np.float32))


def entropy(logits: Tensor) -> Tensor:
    """Entropy of the distribution that logits stand for.

    Args:
        logits: f32 [..., vocab], or the largest of them.

    Returns:
        f32 [...], in nats.
    """
    log_p = torch.log_softmax(logits, dim=-1)
    return -(log_p.exp() * log_p).sum(dim=-1)


def aleatoric_uncertainty(logits: Tensor, num_evidence: int = NUM_EVIDENCE_LOGITS) -> Tensor:
    """Expected entropy under a Dirichlet distribution whose evidence is the largest logits.

    Args:
        logits: f32 [..., vocab], raw.
        num_evidence: How many of the largest logits count.

    Returns:
        f32 [...], in nats: small where one logit stands out, large where the evidence is spread.

    Source: arXiv:2502.00290 §3 (token uncertainty from logits); deviation: evidence is kept above 0, where the
    largest logits of a large model lie by themselves.
    """
    evidence = torch.topk(logits, num_evidence, dim=-1).values.clamp_min(1e-6)
    total = evidence.sum(dim=-1, keepdim=True)
    terms = evidence / total * (torch.digamma(evidence + 1) - torch.digamma(total + 1))
    return -terms.sum(dim=-1)
