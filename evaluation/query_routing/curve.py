"""What a query-level router reaches at every share of queries, without decoding anything again."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evaluation.query_routing.outcomes import Outcomes
from evaluation.records.results_files import QueryRoutingPoint

NUM_POINTS = 101


def measure_share(outcomes: Outcomes, to_llm: NDArray[np.bool_]) -> QueryRoutingPoint:
    """Measures one choice.

    Args:
        outcomes: Of held-out queries.
        to_llm: bool [queries], which of them the LLM answers.

    Returns:
        Its figures.
    """
    llm_tokens = int(outcomes.llm_tokens[to_llm].sum())
    slm_tokens = int(outcomes.slm_tokens[~to_llm].sum())
    num_tokens = llm_tokens + slm_tokens
    return QueryRoutingPoint(
        llm_share=float(to_llm.mean()),
        llm_usage_rate=llm_tokens / num_tokens,
        avg_params_b=float(outcomes.avg_params_b(np.asarray(slm_tokens), np.asarray(llm_tokens))),
        accuracy=float(np.where(to_llm, outcomes.llm_correct, outcomes.slm_correct).mean()),
        mean_tokens=num_tokens / len(to_llm),
    )


def sweep_shares(
    outcomes: Outcomes, scores: NDArray[np.float32], num_points: int = NUM_POINTS
) -> list[QueryRoutingPoint]:
    """Sends rising shares of the queries with the largest scores to the LLM.

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
