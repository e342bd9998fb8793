"""A rule for studies beside the shipped ones: the aleatoric uncertainty of the SLM's logits."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from services.rules.decider import Decider, Threshold
from services.rules.rule import DraftRows, Evidence, Parameter

NUM_EVIDENCE_LOGITS = 10
"""Logits that count as evidence."""


class AleatoricRule:
    """Asks the LLM where the evidence in the SLM's logits is spread (arXiv:2505.21600 §4.2)."""

    name = "aleatoric"
    version = "1"
    evidence = Evidence.SLM
    needs_llm = True
    parameters: Mapping[str, Parameter] = {
        "threshold": Parameter("Ask the LLM at an expected entropy in nats of at least this.", default=None)
    }

    def scores(self, rows: DraftRows) -> NDArray[np.float32]:
        """Expected entropy in nats."""
        return aleatoric_uncertainty(torch.tensor(rows.top_logits)).numpy()

    def decider(self, parameters: Mapping[str, float]) -> Decider:
        """Decides by the score."""
        return Threshold(parameters["threshold"])


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
