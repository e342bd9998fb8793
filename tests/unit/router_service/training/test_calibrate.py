import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from router_service.description import SweepRow
from router_service.model import Router, RouterConfig
from router_service.training.calibrate import (
    Target,
    area_under_roc,
    choose_threshold,
    fit_slope,
    measure_threshold,
    recentre,
    sweep_thresholds,
)
from services.common.model_sizes import ModelSizes

SIZES = ModelSizes(slm=1_500_000_000, router=56_000_000, llm=32_000_000_000)


def scored(rows: int = 2000) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    divergent = torch.rand(rows, generator=generator) < 0.1
    return torch.randn(rows, generator=generator) + 3.0 * divergent - 2.0, divergent


def measure(threshold: float) -> SweepRow:
    logits, divergent = scored()
    return measure_threshold(torch.sigmoid(logits), divergent, threshold, SIZES)


def test_measure_threshold_counts_a_hand_made_case() -> None:
    scores = torch.tensor([0.9, 0.7, 0.3, 0.1])
    row = measure_threshold(scores, torch.tensor([True, False, True, False]), 0.5, SIZES)
    assert (row.llm_usage_rate, row.recall, row.precision) == (0.5, 0.5, 0.5)


def test_measure_threshold_zero_routes_everything() -> None:
    logits, divergent = scored()
    row = measure_threshold(torch.sigmoid(logits), divergent, 0.0, SIZES)
    assert (row.llm_usage_rate, row.recall) == (1.0, 1.0)


def test_sweep_usage_and_recall_rise_as_the_threshold_falls() -> None:
    rows = sweep_thresholds(*scored(), SIZES)
    assert [row.threshold for row in rows] == sorted((row.threshold for row in rows), reverse=True)
    assert [row.llm_usage_rate for row in rows] == sorted(row.llm_usage_rate for row in rows)
    assert [row.recall for row in rows] == sorted(row.recall for row in rows)
    assert rows[-1].threshold == 0.0


@settings(deadline=None)
@given(st.floats(0.01, 0.9))
def test_sweep_routes_the_share_it_was_asked_for(rate: float) -> None:
    row = sweep_thresholds(*scored(), SIZES, [rate])[0]
    assert row.llm_usage_rate == pytest.approx(rate, abs=0.001)


@settings(deadline=None)
@given(st.floats(0.0, 1.0))
def test_choose_threshold_meets_a_usage_closely_between_rows(usage: float) -> None:
    threshold = choose_threshold(sweep_thresholds(*scored(), SIZES), Target("llm_usage_rate", usage), SIZES)
    assert measure(threshold).llm_usage_rate == pytest.approx(usage, abs=0.012)


@settings(deadline=None)
@given(st.floats(0.1, 1.0))
def test_choose_threshold_meets_a_recall_closely_between_rows(recall: float) -> None:
    threshold = choose_threshold(sweep_thresholds(*scored(), SIZES), Target("recall", recall), SIZES)
    assert measure(threshold).recall == pytest.approx(recall, abs=0.03)


@settings(deadline=None)
@given(st.floats(1.6, 33.5))
def test_choose_threshold_meets_average_parameters_closely(budget: float) -> None:
    threshold = choose_threshold(sweep_thresholds(*scored(), SIZES), Target("avg_activated_params_b", budget), SIZES)
    assert measure(threshold).avg_activated_params_b == pytest.approx(budget, abs=0.4)


def test_choose_threshold_follows_usage_while_decoding_where_it_was_measured() -> None:
    rows = [
        SweepRow(0.8, 0.1, 0.5, 0.5, 4.8, decoded_llm_usage_rate=0.2),
        SweepRow(0.4, 0.3, 0.9, 0.3, 11.2, decoded_llm_usage_rate=0.4),
    ]
    assert choose_threshold(rows, Target("llm_usage_rate", 0.3), SIZES) == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (Target("avg_activated_params_b", 1.0), "takes 1.556 to 33.556"),
        (Target("avg_activated_params_b", 40.0), "takes 1.556 to 33.556"),
        (Target("llm_usage_rate", 1.2), r"llm_usage_rate must lie in \[0, 1\], not 1.2"),
        (Target("recall", -0.1), "recall must lie in"),
        (Target("recall", float("nan")), "recall must lie in"),
    ],
)
def test_choose_threshold_impossible_target_tells_what_is_possible(target: Target, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        choose_threshold(sweep_thresholds(*scored(), SIZES), target, SIZES)


def test_recentre_puts_the_threshold_at_one_half_and_keeps_the_order() -> None:
    torch.manual_seed(0)
    router = Router(RouterConfig(6, 5, projection_size=4, hidden_size=8, num_blocks=1)).eval()
    features = torch.randn(50, 6), torch.randn(50, 5), torch.randn(50, 6)
    before = router(*features).detach()
    threshold = torch.sigmoid(before.median()).item()
    recentre(router, threshold, slope=0.3)
    after = router(*features).detach()
    assert torch.equal(before.argsort(), after.argsort())
    assert torch.equal(torch.sigmoid(before) > threshold + 1e-6, torch.sigmoid(after) > 0.5 + 1e-6)


@pytest.mark.parametrize(("threshold", "slope"), [(0.0, 1.0), (1.0, 1.0), (0.5, 0.0), (0.5, -1.0)])
def test_recentre_map_that_loses_the_order_is_refused(threshold: float, slope: float) -> None:
    with pytest.raises(ValueError, match="recentring"):
        recentre(Router(RouterConfig(6, hidden_size=8, num_blocks=1)), threshold, slope)


def test_fit_slope_undoes_an_overconfident_scale() -> None:
    generator = torch.Generator().manual_seed(1)
    true_logits = torch.randn(20_000, generator=generator) * 2 - 1
    divergent = torch.rand(20_000, generator=generator) < torch.sigmoid(true_logits)
    assert fit_slope(true_logits * 4, divergent) == pytest.approx(0.25, rel=0.05)


@pytest.mark.parametrize(
    ("scores", "expected"), [([3.0, 2.0, 1.0, 0.0], 1.0), ([0.0, 1.0, 2.0, 3.0], 0.0), ([1.0, 1.0, 1.0, 1.0], 0.5)]
)
def test_area_under_roc_of_perfect_inverted_and_tied_scores(scores: list[float], expected: float) -> None:
    assert area_under_roc(torch.tensor(scores), torch.tensor([True, True, False, False])) == expected
