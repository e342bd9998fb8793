import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from router_service.calibrate import (
    ModelSizes,
    choose_row,
    fit_slope,
    measure_threshold,
    recentre,
    sweep_thresholds,
)
from router_service.model import Router, RouterConfig

SIZES = ModelSizes(slm=1_500_000_000, router=56_000_000, llm=32_000_000_000)


def scored(rows: int = 2000) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    divergent = torch.rand(rows, generator=generator) < 0.1
    return torch.randn(rows, generator=generator) + 3.0 * divergent - 2.0, divergent


def test_average_activated_parameters_follow_the_papers_formula() -> None:
    assert SIZES.average_activated_b(0.14) == pytest.approx(1.5 + 0.056 + 32 * 0.14)


def test_measure_threshold_counts_a_hand_made_case() -> None:
    logits = torch.tensor([2.0, 1.0, -1.0, -2.0])
    row = measure_threshold(logits, torch.tensor([True, False, True, False]), 0.5, SIZES)
    assert (row.llm_usage_rate, row.recall, row.precision) == (0.5, 0.5, 0.5)


def test_measure_threshold_zero_routes_everything() -> None:
    logits, divergent = scored()
    row = measure_threshold(logits, divergent, 0.0, SIZES)
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
@given(st.floats(0.02, 1.0))
def test_choose_row_spends_no_more_than_the_usage_budget(budget: float) -> None:
    rows = sweep_thresholds(*scored(), SIZES)
    chosen = choose_row(rows, "llm_usage_rate", budget)
    assert chosen.llm_usage_rate <= budget
    assert not any(chosen.llm_usage_rate < row.llm_usage_rate <= budget for row in rows)


@settings(deadline=None)
@given(st.floats(0.0, 1.0))
def test_choose_row_reaches_the_recall_at_the_lowest_usage(recall: float) -> None:
    rows = sweep_thresholds(*scored(), SIZES)
    chosen = choose_row(rows, "recall", recall)
    assert chosen.recall >= recall
    assert not any(row.recall >= recall and row.llm_usage_rate < chosen.llm_usage_rate for row in rows)


def test_choose_row_impossible_budget_tells_what_is_reached() -> None:
    with pytest.raises(ValueError, match="avg_activated_params_b 1"):
        choose_row(sweep_thresholds(*scored(), SIZES), "avg_activated_params_b", 1.0)


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
