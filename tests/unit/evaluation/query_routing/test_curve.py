import numpy as np
import pytest

from evaluation.query_routing.curve import sweep_shares
from evaluation.query_routing.outcomes import Outcomes

OUTCOMES = Outcomes(
    question_ids=("a", "b", "c", "d"),
    slm_correct=np.array([True, False, False, False]),
    llm_correct=np.array([True, True, True, False]),
    slm_tokens=np.array([10, 10, 10, 10]),
    llm_tokens=np.array([10, 30, 10, 10]),
    slm_params_b=1.0,
    llm_params_b=11.0,
)


def test_outcomes_need_the_llm_where_it_alone_is_right() -> None:
    assert OUTCOMES.needs_llm.tolist() == [False, True, True, False]


def test_sweep_shares_ends_are_the_models_alone() -> None:
    first, *_, last = sweep_shares(OUTCOMES, np.zeros(4, dtype=np.float32), num_points=5)
    assert (first.accuracy, first.avg_params_b, first.llm_usage_rate) == (0.25, 1.0, 0.0)
    assert (last.accuracy, last.avg_params_b, last.llm_usage_rate) == (0.75, 11.0, 1.0)


def test_sweep_shares_largest_scores_go_to_the_llm_first_and_cost_counts_tokens() -> None:
    scores = np.array([0.0, 0.9, 0.5, 0.1], dtype=np.float32)
    quarter = sweep_shares(OUTCOMES, scores, num_points=5)[1]
    assert quarter.llm_share == 0.25
    assert quarter.accuracy == 0.5
    assert quarter.llm_usage_rate == pytest.approx(30 / 60)
    assert quarter.avg_params_b == pytest.approx(6.0)
    assert quarter.mean_tokens == 15
