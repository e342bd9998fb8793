"""Figures of a router's making: its training curves and its threshold sweep.

Owns how they look. The numbers behind a figure lie beside it: `curves.csv`, and the sweep in the checkpoint.
"""

import csv
import dataclasses
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from router_service.description import RouterDescription
from router_service.training.state import EpochRecord

_SIZE_INCHES = (9.0, 3.6)
_DPI = 150
_USAGE_TICKS = (0.5, 1, 2, 5, 10, 20, 50, 100)
_LLM, _SLM, _GREY = "#b5179e", "#3a6ea5", "#777777"


def write_curves(epochs: Sequence[EpochRecord], folder: Path) -> None:
    """Writes the losses and the AUC of every epoch as `curves.csv` and `curves.png`.

    Args:
        epochs: In order, at least one.
        folder: Made when missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "curves.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, [field.name for field in dataclasses.fields(EpochRecord)])
        table.writeheader()
        table.writerows(dataclasses.asdict(epoch) for epoch in epochs)
    figure = Figure(figsize=_SIZE_INCHES, layout="constrained")
    losses, ranking = figure.subplots(1, 2)
    at = [epoch.epoch for epoch in epochs]
    losses.plot(at, [epoch.train_loss for epoch in epochs], color=_GREY, label="training, with dropout")
    losses.plot(at, [epoch.validation_loss for epoch in epochs], color=_LLM, label="validation")
    ranking.plot(at, [epoch.validation_auc for epoch in epochs], color=_LLM)
    best = min(epochs, key=lambda epoch: epoch.validation_loss).epoch
    for axes in (losses, ranking):
        axes.axvline(best, color=_GREY, linestyle=":", label="chosen epoch" if axes is losses else None)
        _label(axes, "epoch")
    losses.set_ylabel("class-weighted cross-entropy")
    losses.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    ranking.set_ylabel("validation AUC")
    figure.savefig(folder / "curves.png", dpi=_DPI)


def write_sweep(description: RouterDescription, folder: Path) -> None:
    """Draws the sweep as `sweep.png` and `sweep.svg`: recall against what it costs, and thresholds against usage.

    Source: arXiv:2505.21600 Figure 8.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = description.sweep
    usage = [100 * row.llm_usage_rate for row in rows]
    figure = Figure(figsize=_SIZE_INCHES, layout="constrained")
    found, setting = figure.subplots(1, 2)
    found.plot(usage, [100 * row.recall for row in rows], color=_LLM, label="recall of divergent tokens")
    found.plot(usage, [100 * row.precision for row in rows], color=_SLM, label="precision")
    found.set_ylabel("%")
    found.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    setting.plot(usage, [row.threshold for row in rows], color=_LLM, marker=".")
    setting.axhline(description.threshold, color=_GREY, linestyle=":", label="default threshold")
    setting.set_ylabel("threshold")
    setting.legend(frameon=False)
    for axes in (found, setting):
        # A rate of 0 has no place on a logarithmic axis, and most of what matters lies below a tenth.
        axes.set_xscale("log")
        axes.set_xticks(_USAGE_TICKS, [f"{tick:g}" for tick in _USAGE_TICKS])
        axes.minorticks_off()
        _label(axes, "tokens by the LLM, %")
    for suffix in ("png", "svg"):
        figure.savefig(folder / f"sweep.{suffix}", dpi=_DPI)


def _label(axes: Axes, x: str) -> None:
    axes.set_xlabel(x)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
