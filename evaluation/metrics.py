"""Figures that evaluations share: bootstrap intervals, and the area under the ROC curve."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from router_service.training.calibrate import area_under_roc as area_under_roc


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
    """Estimates sum(numerators) / sum(denominators) with a 95% percentile interval, resampling queries.

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


def paired_bootstrap_difference(a: ArrayLike, b: ArrayLike, num_resamples: int = 2000, seed: int = 0) -> Estimate:
    """Estimates mean(a) - mean(b) of two methods on the same queries, with a 95% percentile interval.

    A resample draws queries, and takes both methods' outcomes of each: a hard query is hard for both, so the interval
    is narrower than that of two independent means.

    Args:
        a: [queries], such as whether the first method answered correctly.
        b: [queries], the second method's outcomes of the same queries in the same order.
        num_resamples: Bootstrap resamples.
        seed: Seed of the resampling.

    Returns:
        The difference and its interval; an interval that excludes 0 tells the methods apart.

    Raises:
        ValueError: There are no queries, or not the same number of both.
    """
    left: NDArray[np.float64] = np.asarray(a, dtype=np.float64)
    right: NDArray[np.float64] = np.asarray(b, dtype=np.float64)
    if left.shape != right.shape or left.ndim != 1:
        raise ValueError(f"outcomes of shapes {left.shape} and {right.shape} can't be paired query by query")
    if not len(left):
        raise ValueError("there are no queries to compare")
    return bootstrap_ratio(left - right, np.ones(len(left)), num_resamples, seed)
