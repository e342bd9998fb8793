"""Figure 8: what a threshold means on validation tokens: average activated parameters, and recall.

Source: arXiv:2505.21600 Figure 8 and B.4; deviation: recall against size of rules and ablated routers, too.
"""

from __future__ import annotations

from collections.abc import Callable

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from evaluation.records.results_files import RouterSweep, SweepPoint, Sweeps
from evaluation.report.parts import Part
from evaluation.report.stored import MissingInput, StoredResults
from evaluation.report.style import new_figure, percent_axis, style_of
from evaluation.report.units import SizeUnit, size_unit

_TICKS = (0.01, 0.1, 0.5, 0.9, 0.99)
_LARGEST_USAGE = 0.3
"""LLM usage rate up to which recall is drawn against size: beyond it, every method's recall nears 100%."""


def thresholds(results: StoredResults) -> Part:
    """Draws Figure 8."""
    sweeps = results.file(Sweeps).sweeps
    of_r2r = [sweep for sweep in sweeps if sweep.method == "r2r"]
    if not of_r2r:
        raise MissingInput(f"{Sweeps.name}, a sweep of the method r2r")
    unit = size_unit(max(row.avg_activated_params_b for sweep in of_r2r for row in sweep.rows))
    figure, (size, recall, trade) = new_figure(3.3, 3)
    for sweep in of_r2r:
        _against_threshold(size, sweep, lambda row: row.avg_activated_params_b * unit.per_b)
        _against_threshold(recall, sweep, lambda row: row.recall)
    _name_axes(size, "(a) Size", "threshold (log-odds scale)", f"average parameters ({unit.letter})")
    _name_axes(recall, "(b) Recall", "threshold (log-odds scale)", "divergent tokens routed (%)")
    percent_axis(recall.yaxis)
    recall.set_ylim(0, 1.04)
    _draw_trade(trade, sweeps, unit)
    figure.legend(*trade.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    caption = (
        f"Validation tokens; one line for each of {len(of_r2r)} router seeds. **(a)** Average activated parameters "
        "by threshold. **(b)** Recall of divergent tokens by threshold. **(c)** Recall by average activated "
        "parameters, beside rules and ablated routers. Every point is a count over all validation tokens, so the "
        "spread of the seeds stands in for intervals."
    )
    return Part(caption, figure)


def _against_threshold(axes: Axes, sweep: RouterSweep, value: Callable[[SweepPoint], float]) -> None:
    # Probabilities crowd at both ends, so the axis is one of log-odds, which has no place for 0 and 1.
    rows = [row for row in sweep.rows if 0 < row.threshold < 1]
    thresholds = [row.threshold for row in rows]
    axes.plot(thresholds, [value(row) for row in rows], color=style_of(sweep.method).color, linewidth=1.2, alpha=0.8)
    axes.set_xscale("logit")
    axes.xaxis.set_major_locator(FixedLocator(_TICKS))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _name_axes(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_title(title)
    axes.set_xlabel(x)
    axes.set_ylabel(y)


def _draw_trade(axes: Axes, sweeps: list[RouterSweep], unit: SizeUnit) -> None:
    seen: set[str] = set()
    # R2R last, so that nothing covers it.
    for sweep in sorted(sweeps, key=lambda sweep: sweep.method == "r2r"):
        style, rows = style_of(sweep.method), [row for row in sweep.rows if row.llm_usage_rate <= _LARGEST_USAGE]
        sizes, recalls = [row.avg_activated_params_b * unit.per_b for row in rows], [row.recall for row in rows]
        axes.plot(
            sizes, recalls, color=style.color, linestyle=style.dash, linewidth=1.8 if sweep.method == "r2r" else 1.0,
            label=None if sweep.method in seen else style.label,
        )  # fmt: skip
        seen.add(sweep.method)
    _name_axes(axes, "(c) Recall by size", f"average parameters ({unit.letter})", "divergent tokens routed (%)")
    percent_axis(axes.yaxis)
    axes.set_ylim(0, 1.04)
