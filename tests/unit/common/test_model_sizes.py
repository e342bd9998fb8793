import numpy as np
import pytest

from services.common.model_sizes import ModelSizes

SIZES = ModelSizes(slm=1_500_000_000, router=56_000_000, llm=32_000_000_000)


@pytest.mark.parametrize(("llm_usage_rate", "expected"), [(0.0, 1.556), (0.125, 5.556), (1.0, 33.556)])
def test_avg_activated_params_counts_the_llm_by_its_usage(llm_usage_rate: float, expected: float) -> None:
    assert SIZES.avg_activated_params_b(llm_usage_rate) == pytest.approx(expected)


@pytest.mark.parametrize("llm_usage_rate", [-0.1, 0.0, 0.14, 1.0, 1.5])
def test_llm_usage_rate_is_the_way_back(llm_usage_rate: float) -> None:
    assert SIZES.llm_usage_rate(SIZES.avg_activated_params_b(llm_usage_rate)) == pytest.approx(llm_usage_rate)


def test_activated_params_of_many_responses_are_sums_over_their_tokens() -> None:
    activated = SIZES.activated_params_b(np.array([10.0, 20.0]), np.array([1.0, 0.0]))
    assert activated.tolist() == pytest.approx([10 * SIZES.avg_activated_params_b(0.1), 20 * 1.556])
