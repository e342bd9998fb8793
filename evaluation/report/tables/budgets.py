"""How well a threshold that was chosen on validation tokens meets its budget on held-out queries.

Source: arXiv:2505.21600 B.4 (the paper reports small differences, without figures).
"""

from __future__ import annotations

from collections.abc import Sequence

from evaluation.report.markdown_table import Cell, Column, ReportTable, scaled
from evaluation.report.operating_point import OperatingPoint
from evaluation.report.parts import Part
from evaluation.report.stored import MissingInput, StoredResults
from evaluation.report.style import style_of

_BUDGET_COLUMNS = (
    Column("method"),
    Column("target LLM usage (%)", ".1f"),
    Column("held-out LLM usage (%)", ".2f"),
    Column("off by, relative (%)", "+.1f"),
    Column("farthest seed (%)", "+.1f"),
    Column("accuracy (%)", ".1f"),
)


def budgets(results: StoredResults) -> Part:
    """How well thresholds chosen on validation tokens meet a budget on held-out queries."""
    points = [point for point in results.of_method("r2r") if point.target]
    if not points:
        raise MissingInput("runs/, a run of the method r2r with a target LLM usage rate")
    caption = (
        f"R2R on {points[0].num_queries:,} held-out queries: the LLM usage rate that the threshold was chosen for "
        "on validation tokens against the one that held-out queries took. Brackets: 95% bootstrap intervals over "
        "queries, seeds pooled."
    )
    return Part(caption, ReportTable(_BUDGET_COLUMNS, [_budget_row(point, point.target or 0.0) for point in points]))


def _budget_row(point: OperatingPoint, target: float) -> Sequence[Cell]:
    off = [100 * (float(usage) / target - 1) for usage in point.usage_by_seed]
    return [
        style_of(point.method).label,
        100 * target,
        scaled(point.llm_usage_rate, 100),
        100 * (point.llm_usage_rate.value / target - 1),
        max(off, key=abs),
        scaled(point.accuracy, 100),
    ]
