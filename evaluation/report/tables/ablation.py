"""Table 4: what the objective and each input of the router contribute, at equal LLM usage.

Source: arXiv:2505.21600 Table 4; deviation: paired differences with intervals, of which the paper has none; no
latency, since these runs decode questions in batches.
"""

from __future__ import annotations

from evaluation.records.results_files import Routers
from evaluation.report.markdown_table import Cell, Column, ReportTable, scaled
from evaluation.report.operating_point import OperatingPoint, accuracy_difference
from evaluation.report.parts import Gaps, Part
from evaluation.report.stored import MissingInput, StoredResults
from evaluation.report.units import SizeUnit, size_unit

ABLATIONS = {
    "r2r": ("divergent", "HS+Token+Logits"),
    "different": ("different", "HS+Token+Logits"),
    "hs_tok": ("divergent", "HS+Token"),
    "hs": ("divergent", "HS"),
}
"""Objective and inputs of each router of Table 4, by the method's name."""

_ABLATION_COLUMNS = (
    Column("target LLM usage (%)", ".1f"),
    Column("objective"),
    Column("router input"),
    Column("seeds", "d"),
    Column("accuracy (%)", ".1f"),
    Column("R2R minus this (points)", "+.1f"),
    Column("LLM tokens (%)", ".1f"),
)


def ablation(results: StoredResults) -> Part:
    """Table 4: R2R, the objective "different" and routers with fewer inputs, at equal target LLM usage."""
    gaps, unit = Gaps(), size_unit(results.llm_params_b)
    auc = gaps.fill(mean_auc, results)
    rows: list[list[Cell]] = []
    for target in ablation_targets(results):
        full = results.at_target("r2r", target)
        for method in ABLATIONS:
            point = gaps.fill(results.at_target, method, target)
            if point:
                rows.append(_ablation_row(point, full, target, unit, auc or {}))
    if len(rows) == 1 or not rows:
        raise MissingInput("runs/, a run of the methods different, hs_tok or hs")
    columns = [
        *_ABLATION_COLUMNS,
        Column(f"param. ({unit.letter})", "#.3g", with_interval=False),
        Column("tokens a response", ".1f", with_interval=False),
        Column(f"cost ({unit.cost_name})", "#.3g", with_interval=False),
        Column("validation AUC", ".4f"),
    ]
    full = results.main
    caption = (
        f"Routers with another objective or fewer inputs, all else equal, on {full.num_queries:,} held-out queries "
        f"and {full.num_seeds} seeds each. Every router's threshold is chosen on its own validation scores for the "
        "same LLM usage rate; what it then uses is in the table. Brackets: 95% bootstrap intervals over queries. "
        "*R2R minus this*: paired, query by query, seeds pooled; where the interval excludes 0 the two differ. HS: "
        "last hidden state. Validation AUC: mean over seeds, for divergent tokens, whatever the objective."
    )
    return Part(caption, ReportTable(columns, rows), tuple(gaps.lines))


def ablation_targets(results: StoredResults) -> list[float]:
    """Target LLM usage rates at which R2R and a router with another objective or fewer inputs ran."""
    of_r2r = {point.target for point in results.of_method("r2r")} - {None}
    others = {point.target for point in results.points if point.method in ABLATIONS and point.method != "r2r"}
    return sorted(target for target in of_r2r & others if target is not None)


def mean_auc(results: StoredResults) -> dict[str, float]:
    """Area under the ROC curve on validation tokens by method, mean over seeds."""
    found: dict[str, list[float]] = {}
    for router in results.file(Routers).routers:
        found.setdefault(router.method, []).append(router.auc)
    return {method: sum(values) / len(values) for method, values in found.items()}


def _ablation_row(
    point: OperatingPoint, full: OperatingPoint, target: float, unit: SizeUnit, auc: dict[str, float]
) -> list[Cell]:
    objective, inputs = ABLATIONS[point.method]
    return [
        100 * target,
        objective,
        inputs,
        point.num_seeds,
        scaled(point.accuracy, 100),
        None if point is full else scaled(accuracy_difference(full, point), 100),
        scaled(point.llm_usage_rate, 100),
        scaled(point.avg_activated_params_b, unit.per_b),
        point.tokens_per_response,
        scaled(point.cost_b, unit.per_b),
        auc.get(point.method),
    ]
