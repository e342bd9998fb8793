"""Stage 5: join features and labels of many responses into one table, and count it as the paper's Table 1 does."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from labeler_jobs.prefill import PrefillResult
from labeler_jobs.verify import Label
from router_service.dataset import RoutingData


@dataclass(frozen=True)
class LabelStatistics:
    """Counts over one labelled set.

    Attributes:
        num_queries: Responses that were labelled.
        num_tokens: Response tokens, EOS included.
        num_different: Tokens that the SLM would write differently.
        num_divergent: Those that change what is said.

    Source: arXiv:2505.21600 Table 1.
    """

    num_queries: int
    num_tokens: int
    num_different: int
    num_divergent: int

    def as_dict(self) -> dict[str, float]:
        """Counts and rates, for a report or a checkpoint."""
        return {
            "num_queries": self.num_queries,
            "num_tokens": self.num_tokens,
            "num_different": self.num_different,
            "num_divergent": self.num_divergent,
            "different_rate": self.num_different / self.num_tokens,
            "divergent_rate": self.num_divergent / self.num_tokens,
        }


def join_labels(
    prefilled: Sequence[PrefillResult], fork_labels: Mapping[tuple[int, int], Label]
) -> tuple[RoutingData, Tensor]:
    """Join per-position features with labels.

    Args:
        prefilled: One result per response.
        fork_labels: Label of every differing position, keyed by (response index, position).

    Returns:
        The router's data, and i64 [num_tokens] labels with values of `Label`.

    Raises:
        ValueError: If a differing position has no label.
    """
    labels: list[Tensor] = []
    for index, result in enumerate(prefilled):
        row = torch.full_like(result.slm_token_ids, Label.IDENTICAL)
        for position in result.different.nonzero().flatten().tolist():
            if (index, position) not in fork_labels:
                raise ValueError(f"response {index} differs at position {position}, which has no label")
            row[position] = fork_labels[index, position]
        labels.append(row)
    all_labels = torch.cat(labels)
    data = RoutingData(
        hidden_state=torch.cat([result.hidden_state for result in prefilled]),
        top_logits=torch.cat([result.top_logits for result in prefilled]),
        token_ids=torch.cat([result.slm_token_ids for result in prefilled]),
        divergent=all_labels == Label.DIVERGENT,
    )
    return data, all_labels


def count_labels(num_queries: int, labels: Tensor) -> LabelStatistics:
    """Count labels of one set.

    Args:
        num_queries: Responses in the set.
        labels: i64 [num_tokens], values of `Label`.
    """
    return LabelStatistics(
        num_queries=num_queries,
        num_tokens=labels.numel(),
        num_different=int((labels != Label.IDENTICAL).sum()),
        num_divergent=int((labels == Label.DIVERGENT).sum()),
    )
