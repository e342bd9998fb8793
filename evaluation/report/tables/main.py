"""Table 2: accuracy, size and cost of every method, by domain.

Source: arXiv:2505.21600 Table 2; deviation: bootstrap intervals, of which the paper has none.
"""

from __future__ import annotations

from evaluation.report.markdown_table import Cell, Column, ReportTable, scaled
from evaluation.report.operating_point import OperatingPoint
from evaluation.report.parts import Gaps, Part
from evaluation.report.stored import MissingInput, StoredResults
from evaluation.report.style import style_of
from evaluation.report.units import SizeUnit, size_unit

ALONE = ("slm", "mid", "llm")
QUERY_LEVEL = ("qr_sw", "qr_llm", "qr_encoder", "qr_mf")
TOKEN_RULES = ("entropy", "aleatoric", "random")
_KINDS = {"alone": ALONE, "query level": QUERY_LEVEL, "token level": (*TOKEN_RULES, "r2r", "oracle")}


def main_comparison(results: StoredResults) -> Part:
    """Table 2: every method, by domain and over all queries."""
    gaps, main, unit = Gaps(), results.main, size_unit(results.llm_params_b)
    rows: list[list[Cell]] = []
    for kind, methods in _KINDS.items():
        for method in methods:
            point = gaps.fill(_comparable, results, method, main.avg_activated_params_b.value)
            if point:
                cells = _cells(results, point, unit)
                rows.append([kind, style_of(method).label, point.num_queries, *cells])
    table = ReportTable(_main_columns(results, unit), rows)
    return Part(_main_caption(main, unit), table, tuple(gaps.lines))


def _comparable(results: StoredResults, method: str, size_b: float) -> OperatingPoint:
    """What stands beside R2R's main operating point: of equal size, of equal target usage, or the only one."""
    if method in QUERY_LEVEL:
        return results.nearest_in_size(method, size_b)
    if method in ALONE or method == "oracle":
        return results.single(method)
    if method == "r2r":
        return results.main
    return results.at_target(method, results.main_target)


def _main_columns(results: StoredResults, unit: SizeUnit) -> list[Column]:
    columns = [Column("type"), Column("method"), Column("queries", ",d")]
    for domain in _shown_domains(results):
        name = domain or "all"
        columns += [
            Column(f"{name}: accuracy (%)", ".1f"),
            Column(f"{name}: param. ({unit.letter})", "#.3g", with_interval=False),
            Column(f"{name}: cost ({unit.cost_name})", "#.3g", with_interval=False),
        ]
    return [
        *columns,
        Column("all: LLM tokens (%)", ".1f"),
        Column("all: tokens a response", ".1f", with_interval=False),
    ]


def _shown_domains(results: StoredResults) -> list[str | None]:
    return [*results.domains, None] if len(results.domains) > 1 else [None]


def _cells(results: StoredResults, point: OperatingPoint, unit: SizeUnit) -> list[Cell]:
    cells: list[Cell] = []
    for domain in _shown_domains(results):
        part = point.of_domain(domain)
        if not part.num_queries:
            cells += [None, None, None]
            continue
        cells += [
            scaled(part.accuracy, 100),
            scaled(part.avg_activated_params_b, unit.per_b),
            scaled(part.cost_b, unit.per_b),
        ]
    return [*cells, scaled(point.llm_usage_rate, 100), point.tokens_per_response]


def _main_caption(main: OperatingPoint, unit: SizeUnit) -> str:
    seeds = f", {main.num_seeds} seeds of what is trained" if main.num_seeds > 1 else ""
    unit_name = "millions" if unit.letter == "M" else "billions"
    return (
        f"Greedy answers to {main.num_queries:,} held-out queries{seeds}. Brackets: 95% bootstrap intervals over "
        "queries; a query's responses of all seeds are drawn together. *param.*: average activated parameters of "
        f"an emitted token in {unit_name}; *cost*: that times the tokens of a response. R2R, entropy, aleatoric and "
        f"random: {main.setting}. Query-level routing: the run whose average parameters are nearest to R2R's. "
        "Oracle: the labelling verifier decides at every token, at no cost; an upper bound, not a method."
    )


def best_query_level(results: StoredResults) -> OperatingPoint:
    """Of all kinds of query-level routing the most accurate one at R2R's average parameters.

    Raises:
        MissingInput: There is no run of any.
    """
    gaps, size_b = Gaps(), results.main.avg_activated_params_b.value
    found = [gaps.fill(results.nearest_in_size, method, size_b) for method in QUERY_LEVEL]
    best = max((point for point in found if point), key=lambda point: point.accuracy.value, default=None)
    if best is None:
        raise MissingInput(f"runs/, a run of the methods {', '.join(QUERY_LEVEL)}")
    return best
