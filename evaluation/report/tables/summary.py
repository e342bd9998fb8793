"""The report in one small table, for a README: what each way of answering reaches, and at which size."""

from __future__ import annotations

from evaluation.report.markdown_table import Cell, Column, ReportTable, scaled
from evaluation.report.operating_point import OperatingPoint
from evaluation.report.parts import Gaps, Part, sentence_of_counts
from evaluation.report.stored import StoredResults
from evaluation.report.style import style_of
from evaluation.report.tables.main import best_query_level

_COLUMNS = (
    Column("answered by"),
    Column("accuracy (%)", ".1f"),
    Column("tokens by the LLM (%)", ".1f", with_interval=False),
    Column("average parameters (% of the LLM's)", ".1f", with_interval=False),
)


def summary(results: StoredResults) -> Part:
    """Models alone, the best query-level routing, the entropy rule, and R2R at every budget."""
    gaps, main, size_b = Gaps(), results.main, results.llm_params_b
    rows: list[list[Cell]] = []

    def add(name: str, point: OperatingPoint | None) -> None:
        if point:
            rows.append(_row(name, point, size_b))

    add("small model (SLM) alone", gaps.fill(results.single, "slm"))
    add("mid-size model alone", gaps.fill(results.single, "mid"))
    query_level = gaps.fill(best_query_level, results)
    add(f"best query-level routing ({style_of(query_level.method).label})" if query_level else "", query_level)
    add("entropy threshold", gaps.fill(_entropy, results))
    for point in results.of_method("r2r"):
        budget = "default threshold" if point.target is None else f"budget {point.target:.0%}"
        add(f"**R2R, {budget}**" if point is main else f"R2R, {budget}", point)
    add("oracle path-following", gaps.fill(results.single, "oracle"))
    add("large model (LLM) alone", gaps.fill(results.single, "llm"))
    caption = (
        f"{sentence_of_counts(main.num_queries, main.num_seeds)}; brackets: 95% bootstrap intervals over queries. A "
        "budget is the share of tokens that the LLM was to write; thresholds are chosen for it on validation tokens. "
        "Query-level routing and entropy stand at the size and the budget of the R2R row in bold."
    )
    return Part(caption, ReportTable(_COLUMNS, rows), tuple(gaps.lines))


def _entropy(results: StoredResults) -> OperatingPoint:
    return results.at_target("entropy", results.main_target)


def _row(name: str, point: OperatingPoint, llm_params_b: float) -> list[Cell]:
    share = scaled(point.avg_activated_params_b, 100 / llm_params_b)
    return [name, scaled(point.accuracy, 100), scaled(point.llm_usage_rate, 100), share]
