import pytest
import torch

from evaluation.evidence.calibration import threshold_at

SCORES = torch.tensor([0.9, 0.1, 0.8, 0.3, 0.2, 0.7, 0.6, 0.5, 0.4, 0.0])


@pytest.mark.parametrize("target", [0.1, 0.3, 0.5, 0.9])
def test_threshold_at_a_usage_rate_routes_that_share(target: float) -> None:
    assert float((threshold_at(SCORES, target) <= SCORES).float().mean()) == pytest.approx(target)
