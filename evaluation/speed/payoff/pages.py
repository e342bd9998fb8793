"""Shows whether a pair pays off: tables for people, and the figure."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from rich.table import Table

from evaluation.report.style import (
    FAINT,
    GREEN,
    INK,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    MethodStyle,
    new_figure,
    percent_axis,
    report_style,
    save_figure,
)
from evaluation.speed.payoff.study import StudyOptions
from evaluation.speed.payoff.times import StepTimes
from evaluation.speed.payoff.verdict import Payoff

_STYLES = {
    "router": MethodStyle("router", VERMILION, "o"),
    "entropy": MethodStyle("entropy", PURPLE, "v", "--"),
    "margin": MethodStyle("margin", ORANGE, "^", ":"),
    "lossless": MethodStyle("lossless", GREEN, "D"),
    "slm": MethodStyle("slm", INK, "o"),
    "llm": MethodStyle("llm", SKY, "s"),
}


def times_table(times: StepTimes, options: StudyOptions) -> Table:
    """What the steps take."""
    table = Table("step", "ms", title="Step times", title_justify="left")
    many = options.num_streams
    rows = [
        ("SLM: a draft, one at a time", times.slm_step(1) + times.slm_hop_s),
        ("SLM: a draft while it drafts on", times.slm_step(1)),
        (f"SLM: a step of {many} streams", times.slm_step(many)),
        *([("router: a draft's score", times.router(1))] if times.router else []),
        ("LLM: a pass of 1 token", times.llm_pass(1)),
        (f"LLM: a pass of {max(1, options.depth)} tokens", times.llm_pass(max(1, options.depth))),
        (f"LLM: a pass of {many} streams", times.llm_streams(many)),
        ("orchestrator: a message of drafts", times.draft_s),
        *([("orchestrator: a message of scores", times.score_s)] if times.router else []),
        ("orchestrator: a message of answers", times.answer_s),
    ]
    for name, seconds in rows:
        table.add_row(name, f"{1e3 * seconds:.2f}")
    slowdown = f"the SLM takes {times.slm_slowdown:.2f} times as long, the LLM {times.llm_slowdown:.2f}"
    crowding = f"with run-ahead, {times.slm_crowding:.2f} and {times.llm_crowding:.2f} times"
    table.caption = f"while both are at work, {slowdown}; {crowding}"
    return table


def payoff_table(payoff: Payoff, options: StudyOptions) -> Table:
    """What each rule would give."""
    many = options.num_streams
    table = Table(title="Predicted", title_justify="left")
    for column in (
        "rule", "threshold", "LLM asked %", "agreement %", "tokens/s, depth 0", f"tokens/s, depth {options.depth}",
        "x plain LLM", f"tokens/s, {many} streams", "x plain LLM",
    ):  # fmt: skip
        table.add_column(column, justify="left" if column == "rule" else "right")
    table.add_row(
        "plain LLM", "", "", "", "", f"{payoff.plain_tokens_per_s:.0f}", "1.00",
        f"{payoff.plain_tokens_per_s_streams:.0f}", "1.00", end_section=True,
    )  # fmt: skip
    for row in payoff.rules:
        table.add_row(
            row.rule,
            "" if row.threshold is None else f"{row.threshold:.4g}",
            f"{100 * row.llm_share:.1f}",
            f"{100 * row.agreement:.1f}",
            f"{row.tokens_per_s_waiting:.0f}",
            f"{row.tokens_per_s:.0f}",
            f"{row.speedup:.2f}",
            f"{row.tokens_per_s_streams:.0f}",
            f"{row.speedup_streams:.2f}",
        )
    return table


def checks_table(payoff: Payoff) -> Table:
    """Predictions beside the truth."""
    table = Table(title="Speed of one stream as a multiple of the plain LLM's", title_justify="left")
    table.caption = "slm and llm are what the orchestrator's own time is measured with"
    for column in ("rule", "depth", "predicted", "measured", "prediction is off by %"):
        table.add_column(column, justify="left" if column == "rule" else "right")
    for row in payoff.rules:
        for check in row.checks:
            spread = f"{min(check.measured):.2f}-{max(check.measured):.2f}"
            measured = f"{statistics.median(check.measured):.2f} ({spread})"
            table.add_row(row.rule, str(check.depth), f"{check.predicted:.2f}", measured, f"{100 * check.error:+.0f}")
    return table


def draw(payoff: Payoff, stem: Path) -> list[Path]:
    """Draws predicted speed against the LLM's share, with what was measured as hollow marks.

    Returns:
        The files: PNG and SVG.
    """
    with report_style():
        figure, [panel] = new_figure(3.2)
        panel.axhline(1.0, color=FAINT, linestyle="--", linewidth=1, zorder=1)
        panel.annotate("plain LLM", (1.0, 1.0), (0, 3), textcoords="offset points", ha="right", color=FAINT)
        for row in payoff.rules:
            style = _STYLES.get(row.rule, MethodStyle(row.rule, FAINT, "."))
            if row.sweep:
                shares, speeds = zip(*((point.llm_share, point.speedup) for point in row.sweep), strict=True)
                panel.plot(shares, speeds, color=style.color, linestyle=style.dash, zorder=2)
            marks: dict[str, Any] = {"marker": style.marker, "color": style.color, "linestyle": "none"}
            panel.plot([row.llm_share], [row.speedup], label=style.label, zorder=3, **marks)
            if row.checks:
                measured = statistics.median(row.checks[-1].measured)
                panel.plot([row.llm_share], [measured], markerfacecolor="none", markersize=9, zorder=3, **marks)
        panel.set_title("Does it pay off?")
        panel.set_xlabel("tokens that the LLM is asked about (%)")
        panel.set_ylabel("speed of one stream, x plain LLM")
        panel.set_ylim(bottom=0)
        percent_axis(panel.xaxis)
        panel.legend(loc="upper right")
        return save_figure(figure, stem)
