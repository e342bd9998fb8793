"""How well every router and rule tells divergent tokens from others, with the spread of its seeds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from evaluation.metrics import Estimate
from evaluation.records.results_files import RouterResult, Routers
from evaluation.report.markdown_table import Cell, Column, ReportTable, scaled
from evaluation.report.parts import Part
from evaluation.report.stored import StoredResults
from evaluation.report.style import style_of

_COLUMNS = (
    Column("method"),
    Column("config"),
    Column("seeds", "d"),
    Column("parameters", ",d"),
    Column("AUC", ".4f"),
    Column("LLM usage at its default threshold (%)", ".1f"),
    Column("recall (%)", ".1f"),
    Column("precision (%)", ".1f"),
)


def routers_on_validation(results: StoredResults) -> Part:
    """AUC, and usage, recall and precision at the default threshold."""
    by_method: dict[tuple[str, str | None], list[RouterResult]] = {}
    for router in results.file(Routers).routers:
        by_method.setdefault((router.method, router.config), []).append(router)
    rows: list[list[Cell]] = [
        [
            style_of(method).label,
            config,
            len(group),
            group[0].num_params,
            _spread([router.auc for router in group]),
            scaled(_spread([router.llm_usage_rate for router in group]), 100),
            scaled(_spread([router.recall for router in group]), 100),
            scaled(_spread([router.precision for router in group]), 100),
        ]
        for (method, config), group in by_method.items()
    ]
    caption = (
        "Labelled validation tokens. AUC: probability that a divergent token scores above another. Means over "
        "seeds; brackets: least and largest seed. Recall: share of divergent tokens that are routed; precision: "
        "share of routed tokens that are divergent."
    )
    return Part(caption, ReportTable(_COLUMNS, rows))


def _spread(values: Sequence[float]) -> Estimate:
    return Estimate(statistics.fmean(values), min(values), max(values))
