import pytest
import torch

from evaluation.evidence.calibration import measure, threshold_for
from router_service.training.calibrate import ModelSizes

SCORES = torch.tensor([0.9, 0.1, 0.8, 0.3, 0.2, 0.7, 0.6, 0.5, 0.4, 0.0])


@pytest.mark.parametrize("target", [0.1, 0.3, 0.5, 0.9])
def test_threshold_for_a_usage_rate_routes_that_share(target: float) -> None:
    assert float((threshold_for(SCORES, target) <= SCORES).float().mean()) == pytest.approx(target)


def test_measure_counts_hits_among_routed_and_among_divergent() -> None:
    divergent = torch.tensor([True, False, False, True] + [False] * 6)
    point = measure(SCORES, divergent, 0.65, ModelSizes(slm=10, router=5, llm=100))
    assert point.llm_usage_rate == pytest.approx(0.3)
    assert [point.recall, point.precision] == pytest.approx([1 / 2, 1 / 3])
    assert point.avg_activated_params_b == pytest.approx((15 + 30) / 1e9)
