"""Choose a threshold: sweep it over validation rows, find the one for a target, centre the probabilities on it.

A target that no row of the sweep meets is met between two rows.

Class-weighted training leaves most probabilities near 0 or 1 and useful thresholds crowded at one end. `recentre`
therefore folds an affine map of the logit into the router's last layer: the slope is fitted so that probabilities are
calibrated in shape, the offset puts the default threshold at 0.5. The order of tokens, and so every operating point,
stays the same.

Source: arXiv:2505.21600 A.3 (threshold selection on the validation set).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from router_service.description import SweepRow
from router_service.model import Router
from services.common.model_sizes import ModelSizes
from services.common.threshold_table import threshold_for, usage_points

DEFAULT_THRESHOLD = 0.5
SWEEP_USAGE_RATES = (
    0.0025, 0.005, 0.01, 0.015, 0.02, 0.025, 0.03, 0.035, 0.04, 0.045, 0.05, 0.055, 0.06, 0.065, 0.07, 0.075, 0.08,
    0.09, 0.1, 0.11, 0.12, 0.13, 0.14, 0.15, 0.175, 0.2, 0.225, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95,
    0.975, 0.99,
)  # fmt: skip
"""LLM usage rates that the sweep table holds a row for; threshold 0 (all LLM) is added."""


USEFUL_AUC = 0.6
"""Below this a router is little better than a coin: too few labels, or labels at random."""
TIE_MARGIN = 1e-4
"""Tokens this close to the threshold are counted: their side of it may hang on the last bits of a matrix product."""


@dataclass(frozen=True)
class Target:
    """What a threshold is chosen for.

    Attributes:
        name: A share of tokens that the LLM writes, a share of divergent tokens that are routed, or billions of
            parameters that take part in a token on average.
        value: To be reached; a share in [0, 1], or billions.
    """

    name: Literal["llm_usage_rate", "recall", "avg_activated_params_b"]
    value: float


def sweep_thresholds(
    logits: Tensor, divergent: Tensor, sizes: ModelSizes, usage_rates: Sequence[float] = SWEEP_USAGE_RATES
) -> list[SweepRow]:
    """Measures thresholds that route a given share of the rows.

    Args:
        logits: f32 [rows], the router's output.
        divergent: bool [rows].
        sizes: Sizes of the three models.
        usage_rates: Shares to route, in rising order.

    Returns:
        One row per distinct threshold, threshold falling, ending with threshold 0.
    """
    ranked, probabilities = torch.sort(logits, descending=True).values, torch.sigmoid(logits)
    thresholds = {torch.sigmoid(boundary(ranked, rate)).item() for rate in usage_rates}
    kept = [threshold for threshold in thresholds if 0.0 < threshold < 1.0]
    return [
        measure_threshold(probabilities, divergent, threshold, sizes)
        for threshold in (*sorted(kept, reverse=True), 0.0)
    ]


def boundary(ranked: Tensor, llm_usage_rate: float) -> Tensor:
    """The middle between the last row that is routed and the first that isn't.

    Args:
        ranked: [rows], scores or logits, falling.
        llm_usage_rate: Share to route; at least one row is, and one isn't.
    """
    at = min(len(ranked) - 1, max(1, round(llm_usage_rate * len(ranked))))
    return (ranked[at - 1] + ranked[at]) / 2


def measure_threshold(scores: Tensor, divergent: Tensor, threshold: float, sizes: ModelSizes) -> SweepRow:
    """Measures one threshold on rows with known labels.

    Args:
        scores: [rows], a router's divergence probabilities or another rule's scores.
        divergent: bool [rows].
        threshold: Routes a row when its score is at least this.
        sizes: Sizes of the three models.

    Returns:
        Usage, recall, precision and average activated parameters at this threshold.
    """
    routed = scores >= threshold
    hits, num_routed = int((routed & divergent).sum()), int(routed.sum())
    usage = num_routed / len(scores)
    return SweepRow(
        threshold=threshold,
        llm_usage_rate=usage,
        recall=hits / max(1, int(divergent.sum())),
        precision=hits / max(1, num_routed),
        avg_activated_params_b=sizes.avg_activated_params_b(usage),
    )


def choose_threshold(rows: Sequence[SweepRow], target: Target, sizes: ModelSizes) -> float:
    """Finds the threshold for a user's target, between the rows of a sweep where none meets it.

    Args:
        rows: A sweep table.
        target: What is to be reached.
        sizes: Sizes of the three models.

    Raises:
        ValueError: If nothing reaches the target.
    """
    if target.name == "recall":
        measured = [(row.threshold, row.recall) for row in rows]
        rate = target.value
    else:
        measured = usage_points((row.threshold, row.llm_usage_rate, row.decoded_llm_usage_rate) for row in rows)
        rate = target.value if target.name == "llm_usage_rate" else sizes.llm_usage_rate(target.value)
    if not 0.0 <= rate <= 1.0:
        least, most = (sizes.avg_activated_params_b(end) for end in (0.0, 1.0))
        raise ValueError(
            f"avg_activated_params_b can't be {target.value:g}: the pair takes {least:.6g} to {most:.6g}"
            if target.name == "avg_activated_params_b"
            else f"{target.name} must lie in [0, 1], not {target.value:g}"
        )
    return threshold_for(measured, rate)


@torch.no_grad()
def recentre(router: Router, threshold: float, slope: float) -> None:
    """Maps the logit z to slope * (z - z0), z0 being the threshold's logit; changes the router's last layer in place.

    Args:
        router: The router.
        threshold: Probability that becomes `DEFAULT_THRESHOLD`.
        slope: Positive factor, such as `fit_slope` gives.

    Raises:
        ValueError: If the map would not keep the order of tokens.
    """
    if slope <= 0.0 or not 0.0 < threshold < 1.0:
        raise ValueError(
            f"recentring needs a positive slope and a threshold inside (0, 1), got {slope} and {threshold}"
        )
    origin = torch.logit(torch.tensor(threshold, dtype=torch.float64)).item()
    router.head.weight.mul_(slope)
    router.head.bias.sub_(origin).mul_(slope)


def fit_slope(logits: Tensor, divergent: Tensor, num_steps: int = 100) -> float:
    """Fits p(divergent) = sigmoid(slope * logit + offset) by Newton's method and returns the slope (Platt scaling).

    Args:
        logits: f32 [rows].
        divergent: bool [rows], both classes present.
        num_steps: Limit of Newton steps.

    Returns:
        The slope, at least 0.05.
    """
    inputs = torch.stack([logits.double(), torch.ones_like(logits, dtype=torch.float64)], dim=1)
    targets = divergent.double()
    weights = torch.zeros(2, dtype=torch.float64)
    ridge = 1e-6 * torch.eye(2, dtype=torch.float64)
    for _ in range(num_steps):
        p = torch.sigmoid(inputs @ weights)
        gradient = inputs.T @ (p - targets)
        curvature = (inputs * (p * (1 - p)).unsqueeze(1)).T @ inputs + ridge
        update = torch.linalg.solve(curvature, gradient)
        weights -= update * min(1.0, 2.0 / float(update.norm()))
        if float(update.norm()) < 1e-8:
            break
    return max(0.05, float(weights[0]))


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
