"""Draws load, demand and replicas over time."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from evaluation.report.style import BLUE, FAINT, INK, VERMILION, WIDTH_IN, report_style, save_figure
from tests.cluster.harness.scaling_record import Record

_COLORS = {"llm": VERMILION, "slm": BLUE}
_PATHS = {"llm": "LLM path (threshold 0)", "slm": "SLM path (threshold above 1)"}


def draw(record: Record, stem: Path) -> list[Path]:
    """Writes `<stem>.png` and `<stem>.svg`: a panel of streams, and one for each component."""
    with report_style():
        figure = Figure(figsize=(WIDTH_IN, 6.4), layout="constrained")
        FigureCanvasAgg(figure)
        panels = list(figure.subplots(3, 1, sharex=True, height_ratios=(1, 1.3, 1.3)))
        _draw_streams(panels[0], record)
        for panel, component in zip(panels[1:], _COLORS, strict=True):
            _draw_component(panel, record, component)
        panels[-1].set_xlabel("seconds")
        return save_figure(figure, stem)


def _draw_streams(panel: Axes, record: Record) -> None:
    times = [sample.time_s for sample in record.samples]
    for path, label in _PATHS.items():
        counts = [sample.streams[path] for sample in record.samples]
        panel.step(times, counts, where="post", color=_COLORS[path], label=label)
    panel.set_title("Streams at once")
    _legend(panel)
    starts = {sample.phase: sample.time_s for sample in reversed(record.samples)}
    top = panel.get_ylim()[1] * 1.35
    panel.set_ylim(0, top)
    for phase, start in starts.items():
        panel.axvline(start, color=FAINT, linewidth=0.6)
        panel.annotate(phase, (start, top), xytext=(3, -9), textcoords="offset points", fontsize=6.5, color=FAINT)


def _draw_component(panel: Axes, record: Record, component: str) -> None:
    times = [sample.time_s for sample in record.samples]
    per_replica = record.per_replica[component]
    needed = [sample.demand[component] / per_replica for sample in record.samples]
    wanted = [sample.pods[component].wanted for sample in record.samples]
    ready = [sample.pods[component].ready for sample in record.samples]
    panel.plot(times, needed, color=FAINT, label=f"demand / {per_replica:g} sequences a replica")
    panel.step(times, wanted, where="post", color=INK, linestyle=":", label="replicas wanted")
    panel.step(times, ready, where="post", color=_COLORS[component], linewidth=2, label="replicas ready")
    panel.set_title(component)
    panel.set_ylim(0, max(3.4, *needed) * 1.05)
    _legend(panel)


def _legend(panel: Axes) -> None:
    # In the title's line, where no curve can be.
    panel.legend(loc="lower right", bbox_to_anchor=(1, 0.97), ncols=3, fontsize=7.5)
