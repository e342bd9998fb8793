"""Figures that evaluations share: bootstrap intervals and the area under the ROC curve."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor


@dataclass(frozen=True)
class Estimate:
    """A figure with its interval.

    Attributes:
        value: The figure over all queries.
        low: Lower end of its 95% bootstrap interval.
        high: Upper end.
    """

    value: float
    low: float
    high: float


def bootstrap_ratio(
    numerators: ArrayLike, denominators: ArrayLike, num_resamples: int = 2000, seed: int = 0
) -> Estimate:
    """Estimate sum(numerators) / sum(denominators) with a 95% percentile interval, resampling queries.

    Args:
        numerators: [queries], such as correct answers or LLM tokens.
        denominators: [queries], such as ones or emitted tokens.
        num_resamples: Bootstrap resamples.
        seed: Seed of the resampling.

    Returns:
        The ratio and its interval.
    """
    top: NDArray[np.float64] = np.asarray(numerators, dtype=np.float64)
    bottom: NDArray[np.float64] = np.asarray(denominators, dtype=np.float64)
    rng = np.random.default_rng(seed)
    picks = rng.integers(0, len(top), size=(num_resamples, len(top)))
    ratios = top[picks].sum(axis=1) / bottom[picks].sum(axis=1)
    low, high = np.quantile(ratios, [0.025, 0.975])
    return Estimate(float(top.sum() / bottom.sum()), float(low), float(high))


def area_under_roc(scores: Tensor, positive: Tensor) -> float:
    """Probability that a positive row scores above a negative one; ties count half.

    Args:
        scores: f32 [rows].
        positive: bool [rows], both classes present.
    """
    _, inverse, counts = torch.unique(scores, return_inverse=True, return_counts=True)
    last_rank = counts.cumsum(dim=0).double()
    mean_rank = last_rank - (counts.double() - 1) / 2
    num_positive = int(positive.sum())
    num_negative = positive.numel() - num_positive
    rank_sum = float(mean_rank[inverse][positive].sum())
    return (rank_sum - num_positive * (num_positive + 1) / 2) / (num_positive * num_negative)
