"""Each table's numbers, computed by hand on a few rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evaluation.metrics import Estimate
from evaluation.records.results_files import ResultFile, ResultsError, Speed, SpeedRow
from evaluation.records.run_records import RunRecords
from evaluation.report.markdown_table import ReportTable
from evaluation.report.operating_point import gather
from evaluation.report.parts import Part
from evaluation.report.stored import MissingInput, StoredResults
from evaluation.report.tables.ablation import ablation
from evaluation.report.tables.budgets import budgets
from evaluation.report.tables.labeling import label_statistics, labeling_cost
from evaluation.report.tables.main import main_comparison
from evaluation.report.tables.routers import routers_on_validation
from evaluation.report.tables.speed import speculative, wall_clock
from evaluation.report.tables.summary import summary
from tests.unit.evaluation.report import made_results
from tests.unit.evaluation.report.small_runs import records, row


def stored(*files: ResultFile, runs: Sequence[RunRecords] = ()) -> StoredResults:
    return StoredResults(Path("results"), {type(file): file for file in files}, tuple(gather(runs)))


def cells(part: Part) -> list[dict[str, Any]]:
    assert isinstance(part.content, ReportTable)
    names = [column.name for column in part.content.columns]
    return [dict(zip(names, row, strict=True)) for row in part.content.rows]


def test_table_1_rates_are_shares_of_tokens() -> None:
    total = cells(label_statistics(stored(made_results.labeling())))[-1]
    assert (total["set"], total["domain"], total["queries"], total["tokens"]) == ("train", "all", 300, 30_000)
    assert total["different (%)"] == pytest.approx(6.0)
    assert total["divergent (%)"] == pytest.approx(2.0)


def test_table_6_shares_add_up_and_speeds_are_tokens_by_seconds() -> None:
    rows = cells(labeling_cost(stored(made_results.labeling())))
    assert rows[0]["share of time (%)"] == pytest.approx(30.0)
    assert rows[0]["tokens/s"] == pytest.approx(500.0)
    assert rows[-1]["stage"] == "total"
    assert rows[-1]["seconds"] == pytest.approx(200.0)


SMALL = (
    records("slm", row("a", False, 10, "slm"), row("b", False, 10, "slm", domain="qa")),
    records("llm", row("a", True, 20, "llm"), row("b", True, 20, "llm", domain="qa")),
    records("r2r", row("a", True, 10, llm_positions=[1]), row("b", False, 10, domain="qa"), target=0.1, seed=0),
    records("r2r", row("a", True, 10, llm_positions=[2]), row("b", True, 10, domain="qa"), target=0.1, seed=1),
    records("different", row("a", True, 10), row("b", False, 10, llm_positions=[0], domain="qa"), target=0.1, seed=0),
    records(
        "different", row("a", False, 10), row("b", False, 10, llm_positions=[0], domain="qa"), target=0.1, seed=1
    ),
    # Of these two, the second has average parameters of 1 + 9 / 2, the first 10: R2R has 2.
    records("qr_sw", row("a", True, 10, "llm"), row("b", True, 10, "llm", domain="qa"), target=1.0, seed=0),
    records("qr_sw", row("a", True, 10, "llm"), row("b", False, 10, "slm", domain="qa"), target=0.5, seed=0),
)


def test_table_2_has_accuracy_size_and_cost_by_domain() -> None:
    part = main_comparison(stored(runs=SMALL))
    rows = {found["method"]: found for found in cells(part)}
    r2r = rows["R2R"]
    assert r2r["qa: accuracy (%)"].value == 50.0
    assert r2r["all: accuracy (%)"].value == 75.0
    assert r2r["math: param. (B)"].value == pytest.approx(1.5 + 0.1 * 10)
    assert r2r["all: param. (B)"].value == pytest.approx(1.5 + 0.05 * 10)
    assert r2r["all: cost (B·tokens)"].value == pytest.approx(20.0)
    assert r2r["all: LLM tokens (%)"].value == pytest.approx(5.0)
    assert rows["LLM"]["all: cost (B·tokens)"].value == pytest.approx(200.0)
    assert "2 held-out queries, 2 seeds" in part.caption


def test_table_2_shows_query_level_routing_at_the_size_nearest_to_r2rs() -> None:
    rows = {found["method"]: found for found in cells(main_comparison(stored(runs=SMALL)))}
    assert rows["QR-SW"]["all: param. (B)"].value == pytest.approx(5.5)


def test_table_2_names_each_method_that_has_no_run() -> None:
    missing = " ".join(main_comparison(stored(runs=SMALL)).missing)
    assert all(f"a run of the method {method}" in missing for method in ("mid", "qr_mf", "entropy", "oracle"))
    assert "make evidence" in missing


def test_table_4_difference_is_paired_by_query_with_seeds_pooled() -> None:
    rows = cells(ablation(stored(runs=SMALL)))
    assert [(found["objective"], found["router input"]) for found in rows] == [
        ("divergent", "HS+Token+Logits"),
        ("different", "HS+Token+Logits"),
    ]
    assert rows[0]["R2R minus this (points)"] is None
    difference = rows[1]["R2R minus this (points)"]
    # By query, R2R minus different: a 1 - 0.5, b 0.5 - 0. Every resample gives the same.
    assert (difference.value, difference.low, difference.high) == (50.0, 50.0, 50.0)
    assert rows[1]["LLM tokens (%)"].value == pytest.approx(5.0)


def test_table_4_without_another_router_is_missing() -> None:
    with pytest.raises(MissingInput, match="different, hs_tok or hs"):
        ablation(stored(runs=SMALL[:4]))


def test_budgets_compare_usage_asked_for_and_taken() -> None:
    (found,) = cells(budgets(stored(runs=SMALL)))
    assert found["target LLM usage (%)"] == pytest.approx(10.0)
    assert found["held-out LLM usage (%)"].value == pytest.approx(5.0)
    assert found["off by, relative (%)"] == pytest.approx(-50.0)
    assert found["farthest seed (%)"] == pytest.approx(-50.0)


def speed_of(*rows: SpeedRow) -> Speed:
    return made_results.speed().model_copy(update={"rows": list(rows)})


def speed_row(method: str, speeds: list[float], **fields: Any) -> SpeedRow:
    made: dict[str, Any] = {
        "llm": "reference",
        "avg_params_b": 0.001,
        "num_tokens": [100] * len(speeds),
        "latency_s": [1.0] * len(speeds),
    }
    return SpeedRow(method=method, tokens_per_s=speeds, **(made | fields))


def test_table_3_has_medians_with_spread_and_ratios_within_repetitions() -> None:
    speed = speed_of(speed_row("llm", [10.0, 20.0, 40.0]), speed_row("r2r", [30.0, 50.0, 80.0]))
    found = cells(wall_clock(stored(speed)))[1]
    assert found["speed (tokens/s)"] == Estimate(50.0, 30.0, 80.0)
    assert found["speed against the LLM's"] == Estimate(2.5, 2.0, 3.0)
    assert found["tokens a question"] == pytest.approx(10.0)
    assert found["param. (M)"] == pytest.approx(1.0)


def test_table_3_holds_each_method_against_the_llm_that_took_part() -> None:
    speed = speed_of(
        speed_row("llm", [100.0]), speed_row("llm", [10.0], llm="inflated"), speed_row("r2r", [30.0], llm="inflated")
    )
    assert cells(wall_clock(stored(speed)))[2]["speed against the LLM's"].value == pytest.approx(3.0)


def test_table_5_shows_equality_and_accepted_drafts_of_speculative_decoding() -> None:
    rows = speed_row("llm", [10.0]), speed_row("speculative", [15.0], equal_to_llm=0.98, accepted_rate=0.6)
    found = cells(speculative(stored(speed_of(speed_row("slm", [50.0], llm=None), *rows))))
    assert [row["method"] for row in found] == ["LLM", "speculative decoding"]
    assert found[1]["responses equal to the LLM's (%)"] == pytest.approx(98.0)
    assert found[1]["drafts among emitted tokens (%)"] == pytest.approx(60.0)
    assert found[1]["speed against the LLM's"].value == pytest.approx(1.5)


def test_speed_without_values_is_an_error_that_names_file_and_field() -> None:
    with pytest.raises(ResultsError, match=r"speed\.json: rows\.1\.num_tokens: no repetition"):
        wall_clock(stored(speed_of(speed_row("llm", [10.0]), speed_row("r2r", []))))


def test_routers_show_mean_and_extremes_of_seeds() -> None:
    found = cells(routers_on_validation(stored(made_results.routers())))[0]
    assert (found["method"], found["seeds"]) == ("R2R", 3)
    assert found["AUC"].value == pytest.approx(0.991)
    assert (found["AUC"].low, found["AUC"].high) == pytest.approx((0.990, 0.992))


def test_table_2_without_targets_shows_r2r_where_its_usage_is_nearest_to_the_main_one() -> None:
    by_threshold = [
        records("r2r", row("a", True, 10, llm_positions=[1]), row("b", True, 10, llm_positions=[0])),
        records("r2r", row("a", True, 10, llm_positions=list(range(9))), row("b", True, 10), seed=1),
    ]
    by_threshold[1] = replace(by_threshold[1], run=replace(by_threshold[1].run, threshold=0.1))
    part = main_comparison(stored(runs=[*SMALL[:2], *by_threshold]))
    (found,) = [row for row in cells(part) if row["method"] == "R2R"]
    assert found["all: LLM tokens (%)"].value == pytest.approx(10.0)
    assert "random: the router's default threshold." in part.caption
    assert any("r2r with a target LLM usage rate" in line for line in part.missing)


def test_summary_has_one_row_for_each_way_of_answering_and_marks_the_main_one() -> None:
    rows = cells(summary(stored(runs=SMALL)))
    assert [row["answered by"] for row in rows] == [
        "small model (SLM) alone",
        "best query-level routing (QR-SW)",
        "**R2R, budget 10%**",
        "large model (LLM) alone",
    ]
    assert rows[2]["accuracy (%)"].value == 75.0
    assert rows[2]["average parameters (% of the LLM's)"].value == pytest.approx(20.0)
    assert rows[3]["tokens by the LLM (%)"].value == pytest.approx(100.0)
