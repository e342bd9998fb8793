"""Figure 4: what tells divergent tokens from others: the SLM's entropy and the token's frequency.

Source: arXiv:2505.21600 Figure 4 and §4.2; deviation: neutral differences are a class of their own.
"""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator

from evaluation.records.results_files import FrequencyBand, Histogram, TokenAnalysis
from evaluation.report.parts import Part
from evaluation.report.stored import StoredResults
from evaluation.report.style import BLUE, FAINT, ORANGE, VERMILION, count_axis, new_figure, percent_axis

_SHARE_TICKS = (0.0, 0.01, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)
_MIN_OCCURRENCES = 50
"""Occurrences that a band of token frequency needs: the share of fewer is noise."""
_LABEL_COLORS = {"identical": FAINT, "neutral": BLUE, "divergent": VERMILION}


def indicators(results: StoredResults) -> Part:
    """Draws Figure 4."""
    analysis = results.file(TokenAnalysis)
    figure, (left, right) = new_figure(3.1, 2)
    _draw_entropy(left, analysis.entropy)
    _draw_frequency(right, analysis.frequency)
    num_tokens = sum(sum(counts) for counts in analysis.entropy.counts.values())
    caption = (
        f"{num_tokens:,} labelled tokens of the training queries. **(a)** Entropy of the SLM's next-token "
        "distribution (top 100 logits, nats), each label's tokens adding up to 100%, on a square-root axis. "
        f"Divergent tokens have {entropy_ratio(analysis.entropy):.1f} times the mean entropy of all others (paper: "
        f"3.8 times); entropy alone separates them with an AUC of {analysis.entropy.auc:.3f}, aleatoric uncertainty "
        f"with {analysis.aleatoric.auc:.3f}. **(b)** Share of occurrences that differ and that diverge, by how "
        "often the SLM predicts the token; a horizontal line spans the frequencies that a point stands for, a "
        f"vertical one its 95% Wilson interval over occurrences; bands of fewer than {_MIN_OCCURRENCES} occurrences "
        "are not drawn."
    )
    return Part(caption, figure)


def entropy_ratio(entropy: Histogram) -> float:
    """Mean entropy of divergent tokens over that of all others."""
    others = {label: sum(counts) for label, counts in entropy.counts.items() if label != "divergent"}
    mean = sum(entropy.mean[label] * count for label, count in others.items() if count) / sum(others.values())
    return entropy.mean["divergent"] / mean


def wilson_interval(hits: int, trials: int) -> tuple[float, float]:
    """95% Wilson interval of a share."""
    z, share = 1.959964, hits / trials
    middle = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * np.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    return max(0.0, float(middle - half)), min(1.0, float(middle + half))


def _draw_entropy(axes: Axes, entropy: Histogram) -> None:
    for label, color in _LABEL_COLORS.items():
        counts = np.asarray(entropy.counts[label], dtype=np.float64)
        if not counts.sum():
            continue
        share = counts / counts.sum()
        name = f"{label} (mean {entropy.mean[label]:.2f})"
        axes.stairs(share, entropy.bin_edges, color=color, linewidth=1.4, label=name)
        axes.stairs(share, entropy.bin_edges, color=color, alpha=0.12, fill=True)
    axes.set_title("(a) SLM entropy by label")
    axes.set_xlabel("entropy (nats)")
    axes.set_ylabel("share of the label's tokens (%)")
    axes.set_xlim(entropy.bin_edges[0], entropy.bin_edges[-1])
    # Identical tokens crowd in the first bin; the square root leaves the others room.
    axes.set_yscale("function", functions=(np.sqrt, np.square))
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_locator(FixedLocator(_SHARE_TICKS))
    percent_axis(axes.yaxis)
    axes.legend(loc="upper right")


def _draw_frequency(axes: Axes, bands: list[FrequencyBand]) -> None:
    series = (("different", ORANGE, "s", "num_different"), ("divergent", VERMILION, "o", "num_divergent"))
    shown = [band for band in bands if band.num_tokens >= _MIN_OCCURRENCES]
    middle = [float(np.sqrt(band.min_count * band.max_count)) for band in shown]
    for label, color, marker, field in series:
        shares = [getattr(band, field) / band.num_tokens for band in shown]
        intervals = [wilson_interval(getattr(band, field), band.num_tokens) for band in shown]
        axes.plot(middle, shares, color=color, marker=marker, markersize=4.5, label=label)
        axes.vlines(middle, *zip(*intervals, strict=True), color=color, linewidth=1.0)
        axes.hlines(
            shares, [b.min_count for b in shown], [b.max_count for b in shown], color=color, linewidth=0.8, alpha=0.5
        )
    axes.set_xscale("log")
    count_axis(axes.xaxis)
    axes.set_title("(b) Divergence by token frequency")
    axes.set_xlabel("times the SLM predicts the token")
    axes.set_ylabel("share of occurrences (%)")
    axes.set_ylim(bottom=0)
    percent_axis(axes.yaxis)
    axes.legend(loc="best")
