"""What figures are drawn from, computed by hand on a few rows."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure
from numpy.typing import NDArray

from evaluation.records.results_files import Histogram
from evaluation.report.figures.indicators import entropy_ratio, wilson_interval
from evaluation.report.figures.position import profile_positions
from evaluation.report.figures.scaling import scaling
from evaluation.report.figures.threshold import thresholds
from evaluation.report.operating_point import OperatingPoint, gather
from evaluation.report.stored import MissingInput
from evaluation.report.style import report_style
from tests.unit.evaluation.report import made_results
from tests.unit.evaluation.report.small_runs import records, row
from tests.unit.evaluation.report.test_tables import SMALL, stored


def test_entropy_ratio_weighs_other_labels_by_their_tokens() -> None:
    counts = {"identical": [90, 0], "neutral": [0, 10], "divergent": [0, 5]}
    mean = {"identical": 0.1, "neutral": 1.1, "divergent": 1.0}
    # The others' mean is 0.9 x 0.1 + 0.1 x 1.1 = 0.2.
    assert entropy_ratio(Histogram(bin_edges=[0, 1, 2], counts=counts, mean=mean, auc=0.9)) == pytest.approx(5.0)


def test_wilson_interval_of_a_known_share() -> None:
    assert wilson_interval(10, 100) == pytest.approx((0.0552, 0.1744), abs=1e-4)
    assert wilson_interval(0, 10)[0] == 0.0


def routed(think_len: int, num_tokens: int, positions: list[int], starts: list[int]) -> OperatingPoint:
    made = row("a", True, num_tokens, think_len=think_len, thought_starts=starts, llm_positions=positions)
    return gather([records("r2r", made)])[0]


def test_positions_are_normalised_within_thinking_reply_and_thoughts() -> None:
    profiles = profile_positions(routed(20, 28, [0, 19, 20], [0, 10]))
    assert [usage.value for usage in profiles.think.usage] == [1.0, *[0.0] * 18, 1.0]
    assert [usage.value for usage in profiles.reply.usage] == [1.0, *[0.0] * 7]
    # Two thoughts of ten tokens: the first begins, the second ends with the LLM's token.
    assert [usage.value for usage in profiles.thought.usage] == [0.5, *[0.0] * 8, 0.5]
    assert (profiles.num_thoughts, profiles.think_len, profiles.reply_len) == (2, 20, 8)
    assert profiles.think.overall.value == pytest.approx(0.1)


def test_reply_shorter_than_its_bins_leaves_some_without_a_value() -> None:
    usage = profile_positions(routed(20, 24, [23], [0])).reply.usage
    # The middles of four tokens lie at 1/8, 3/8, 5/8 and 7/8: in every other of eight bins.
    assert np.isnan([found.value for found in usage]).tolist() == [True, False] * 4
    assert usage[7].value == 1.0


def test_response_without_reply_has_no_position() -> None:
    with pytest.raises(MissingInput, match="finished response"):
        profile_positions(routed(20, 20, [0], [0]))


def lines(figure: object) -> dict[str, NDArray[np.float64]]:
    assert isinstance(figure, Figure)
    return {str(line.get_label()): np.asarray(line.get_xydata()) for line in figure.axes[0].get_lines()}


def test_figure_5_draws_r2r_relative_to_the_llm() -> None:
    with report_style():
        part = scaling(stored(runs=SMALL))
    # Average parameters 2 of 10, accuracy 75%.
    assert lines(part.content)["R2R"].tolist() == [[pytest.approx(0.2), pytest.approx(0.75)]]
    assert any("query_routing.json" in line for line in part.missing)


def test_figure_5_draws_query_level_routing_as_the_mean_of_seeds() -> None:
    routing = made_results.query_routing()
    with report_style():
        drawn = lines(scaling(stored(routing, runs=SMALL)).content)["QR-SW"]
    seeds = [router for router in routing.routers if router.method == "qr_sw"]
    assert drawn[5, 0] == pytest.approx(seeds[0].curve[5].avg_params_b / 10)
    assert drawn[5, 1] == pytest.approx(np.mean([router.curve[5].accuracy for router in seeds]))


def test_figure_8_draws_one_line_a_seed() -> None:
    sweeps = made_results.sweeps()
    with report_style():
        figure = thresholds(stored(sweeps)).content
    assert isinstance(figure, Figure)
    drawn = figure.axes[0].get_lines()
    assert len(drawn) == 3
    first = sweeps.sweeps[0].rows[0]
    assert np.asarray(drawn[0].get_xydata())[0].tolist() == pytest.approx(
        [first.threshold, first.avg_activated_params_b * 1e3]
    )
