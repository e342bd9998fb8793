"""Figures 5 and 7: accuracy against average activated parameters, and against total cost.

Source: arXiv:2505.21600 Figures 5 and 7; deviation: both axes relative to the LLM, whose size and cost are 100%.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator

from evaluation.records.results_files import QueryRouter, QueryRouting
from evaluation.report.operating_point import Floats, OperatingPoint
from evaluation.report.parts import Gaps, Part
from evaluation.report.stored import StoredResults
from evaluation.report.style import new_figure, percent_axis, style_of
from evaluation.report.tables.main import ALONE, QUERY_LEVEL, TOKEN_RULES
from evaluation.report.units import size_unit

_TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


@dataclass(frozen=True)
class _Axis:
    """What the x axis shows.

    Attributes:
        of_point: Value of each seed of an operating point, [runs].
        of_curve: Value of each point of a query-level router's curve, [shares].
        whole: Value of the LLM alone.
        label: The axis' label.
    """

    of_point: Callable[[OperatingPoint], Floats]
    of_curve: Callable[[QueryRouter], Floats]
    whole: float
    label: str


def scaling(results: StoredResults) -> Part:
    """Figure 5: accuracy against average activated parameters."""
    unit = size_unit(results.llm_params_b)
    whole = f"{results.llm_params_b * unit.per_b:.3g}{unit.letter}"
    axis = _params_axis(results, f"average activated parameters (% of the LLM's {whole})")
    return _part(results, axis, "average activated parameters of an emitted token")


def _params_axis(results: StoredResults, label: str) -> _Axis:
    return _Axis(
        lambda point: point.params_b_by_seed,
        lambda router: np.asarray([point.avg_params_b for point in router.curve]),
        results.llm_params_b,
        label,
    )


def scaling_by_domain(results: StoredResults) -> Part:
    """Figure 5, once for each domain; of query-level routing its runs, since its curves hold no domains."""
    gaps, axis = Gaps(), _params_axis(results, "")
    figure, panels = new_figure(3.5, len(results.domains), share_y=True)
    r2r = results.of_method("r2r")
    for axes, domain in zip(panels, results.domains, strict=True):
        _draw_curve(axes, axis, [point.of_domain(domain) for point in r2r], hero=True)
        for method in (*TOKEN_RULES, *QUERY_LEVEL):
            points = gaps.fill(results.of_method, method) or []
            _draw_curve(axes, axis, [point.of_domain(domain) for point in points])
        for method in (*ALONE, "oracle"):
            point = gaps.fill(results.single, method)
            if point:
                _draw_alone(axes, axis, point.of_domain(domain), named=False)
        axes.set_title(domain)
        _set_axes(axes, axis)
    lowest = min(axes.dataLim.ymin for axes in panels)
    panels[0].set_ylim(max(0.0, lowest - 0.08), 1.06)
    for axes in panels[1:]:
        axes.set_ylabel("")
    # One label for all panels; a label of the whole figure would lie under the legend.
    panels[len(panels) // 2].set_xlabel("average activated parameters (% of the LLM's)")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    counts = ", ".join(f"{domain} {r2r[0].of_domain(domain).num_queries:,}" for domain in results.domains)
    caption = (
        f"As Figure 5, by domain ({counts} held-out queries). Bars: 95% bootstrap intervals over the domain's "
        "queries; bands: from the worst to the best seed."
    )
    return Part(caption, figure, tuple(gaps.lines))


def cost_scaling(results: StoredResults) -> Part:
    """Figure 7: accuracy against total cost."""
    llm = results.single("llm")
    axis = _Axis(
        lambda point: point.cost_b_by_seed,
        lambda router: np.asarray([point.avg_params_b * point.mean_tokens for point in router.curve]),
        float(llm.activated_b.mean()),
        "total cost: parameters times tokens of a response (% of the LLM's)",
    )
    return _part(results, axis, "the total cost of a response (average activated parameters times emitted tokens)")


def _part(results: StoredResults, axis: _Axis, measured: str) -> Part:
    gaps = Gaps()
    figure, (axes,) = new_figure(4.3)
    r2r = results.of_method("r2r")
    _draw_curve(axes, axis, r2r, hero=True)
    for method in TOKEN_RULES:
        _draw_curve(axes, axis, gaps.fill(results.of_method, method) or [])
    _draw_query_level(axes, axis, gaps.fill(results.file, QueryRouting))
    for method in (*ALONE, "oracle"):
        point = gaps.fill(results.single, method)
        if point:
            _draw_alone(axes, axis, point)
    _set_axes(axes, axis)
    axes.set_ylim(max(0.0, axes.dataLim.ymin - 0.08), 1.06)
    figure.legend(loc="outside lower center", ncols=4)
    caption = (
        f"Accuracy on {r2r[0].num_queries:,} held-out queries against {measured}, on a logarithmic axis relative to "
        f"the LLM. R2R: mean of {r2r[0].num_seeds} router seeds at each target LLM usage rate, band from the worst "
        "to the best seed, bars the 95% bootstrap interval over queries. Entropy, aleatoric and random choose "
        "tokens by a rule. Query-level routing (QR): mean over seeds while the share of queries that the LLM "
        "answers grows from 0 to all. Oracle: the labelling verifier decides at every token, at no cost. SLM, "
        "mid-size model and LLM alone with 95% intervals."
    )
    return Part(caption, figure, tuple(gaps.lines))


def _draw_curve(axes: Axes, axis: _Axis, points: Sequence[OperatingPoint], *, hero: bool = False) -> None:
    if not points:
        return
    style = style_of(points[0].method)
    x = np.asarray([axis.of_point(point).mean() for point in points]) / axis.whole
    y = np.asarray([point.accuracy.value for point in points])
    axes.plot(
        x, y, color=style.color, marker=style.marker, linestyle=style.dash, label=style.label,
        linewidth=2.4 if hero else 1.3, markersize=5.5 if hero else 4, zorder=5 if hero else 3,
    )  # fmt: skip
    by_seed = [point.accuracy_by_seed for point in points]
    axes.fill_between(
        x, [s.min() for s in by_seed], [s.max() for s in by_seed], color=style.color, alpha=0.2, linewidth=0
    )
    if hero:
        axes.vlines(
            x, [p.accuracy.low for p in points], [p.accuracy.high for p in points], color=style.color, linewidth=1
        )
        at, shift = (x[0], y[0]), (-8, 0)
        axes.annotate(
            style.label, at, shift, textcoords="offset points", ha="right", va="center", color=style.color,
            fontsize=11, fontweight="bold",
        )  # fmt: skip


def _draw_alone(axes: Axes, axis: _Axis, point: OperatingPoint, *, named: bool = True) -> None:
    style, accuracy = style_of(point.method), point.accuracy
    x = float(axis.of_point(point).mean()) / axis.whole
    size = 11 if style.marker == "*" else 6.5
    axes.vlines(x, accuracy.low, accuracy.high, color=style.color, linewidth=1, zorder=6)
    axes.plot(
        [x], [accuracy.value], color=style.color, marker=style.marker, markersize=size, linestyle="", zorder=7,
        label=None if named else style.label,
    )  # fmt: skip
    if not named:
        return
    shift, side = {"llm": ((0, 7), "center"), "oracle": ((0, 8), "center")}.get(point.method, ((8, -9), "left"))
    axes.annotate(
        style.label, (x, accuracy.value), shift, textcoords="offset points", ha=side, color=style.color, fontsize=8.5,
        zorder=8,
    )  # fmt: skip


def _draw_query_level(axes: Axes, axis: _Axis, routing: QueryRouting | None) -> None:
    for method in QUERY_LEVEL if routing else ():
        routers = [router for router in routing.routers if router.method == method]  # type: ignore[union-attr]
        if not routers:
            continue
        style, shares = style_of(method), [point.llm_share for point in routers[0].curve]
        x = np.mean([_at_shares(router, axis.of_curve(router), shares) for router in routers], axis=0) / axis.whole
        y = np.mean([_at_shares(router, _accuracies(router), shares) for router in routers], axis=0)
        marks = max(1, len(shares) // 8)
        axes.plot(
            x, y, color=style.color, linestyle=style.dash, marker=style.marker, markersize=4, markevery=marks,
            linewidth=1.2, label=style.label, zorder=2,
        )  # fmt: skip


def _at_shares(router: QueryRouter, values: Floats, shares: Sequence[float]) -> Floats:
    return np.interp(shares, [point.llm_share for point in router.curve], values)


def _accuracies(router: QueryRouter) -> Floats:
    return np.asarray([point.accuracy for point in router.curve])


def _set_axes(axes: Axes, axis: _Axis) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(_TICKS))
    axes.xaxis.set_minor_locator(NullLocator())
    percent_axis(axes.xaxis)
    axes.set_xlabel(axis.label)
    axes.set_ylabel("accuracy (%)")
    axes.set_xlim(right=1.15)
    percent_axis(axes.yaxis)
