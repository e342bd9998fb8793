"""What a query-level router reaches at every share of queries, without decoding anything again."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from evaluation.query_routing.outcomes import Outcomes
from evaluation.records.results_files import QueryRoutingPoint

NUM_POINTS = 101


def measure_share(outcomes: Outcomes, to_llm: NDArray[np.bool_]) -> QueryRoutingPoint:
    """Measure one choice.

    Args:
        outcomes: Of held-out queries.
        to_llm: bool [queries], which of them the LLM answers.

    Returns:
        Its figures. Average parameters are weighted by output tokens.

    Source: arXiv:2505.21600 §5.1.
    """
    llm_tokens = int(outcomes.llm_tokens[to_llm].sum())
    num_tokens = llm_tokens + int(outcomes.slm_tokens[~to_llm].sum())
    usage = llm_tokens / num_tokens
    return QueryRoutingPoint(
        llm_share=float(to_llm.mean()),
        llm_usage_rate=usage,
        avg_params_b=outcomes.slm_params_b * (1 - usage) + outcomes.llm_params_b * usage,
        accuracy=float(np.where(to_llm, outcomes.llm_correct, outcomes.slm_correct).mean()),
        mean_tokens=num_tokens / len(to_llm),
    )


def sweep_shares(
    outcomes: Outcomes, scores: NDArray[np.float32], num_points: int = NUM_POINTS
) -> list[QueryRoutingPoint]:
    """Send rising shares of the queries with the largest scores to the LLM.

    Args:
        outcomes: Of held-out queries.
        scores: f32 [queries].
        num_points: Shares, evenly from 0 to 1.
    """
    ranking = np.argsort(-scores, kind="stable")
    points = []
    for share in np.linspace(0, 1, num_points):
        to_llm = np.zeros(len(scores), dtype=bool)
        to_llm[ranking[: round(share * len(scores))]] = True
        points.append(measure_share(outcomes, to_llm))
    return points


def accuracy_at(curve: Sequence[QueryRoutingPoint], avg_params_b: float) -> float:
    """Accuracy at a cost, interpolated along the curve; its ends where the cost lies outside."""
    costs = [point.avg_params_b for point in curve]
    return float(np.interp(avg_params_b, costs, [point.accuracy for point in curve]))
