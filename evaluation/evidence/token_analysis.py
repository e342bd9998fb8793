"""What tells divergent tokens from others, from the labelled training tokens: `token_analysis.json`.

Source: arXiv:2505.21600 §4.2, Figure 4.
"""

from __future__ import annotations

import torch
from torch import Tensor

from evaluation.decoding.aleatoric import AleatoricRule
from evaluation.evidence.plan import Evidence
from evaluation.metrics import area_under_roc
from evaluation.records.results_files import FrequencyBand, Histogram, TokenAnalysis
from labeler_jobs.rule_sweep import score_rows
from router_service.training.dataset import load_routing_data
from services.rules.shipped import EntropyRule

NUM_BINS = 40
LABELS = ("identical", "neutral", "divergent")


def analyse_tokens(evidence: Evidence) -> None:
    """Writes `token_analysis.json`."""
    data = load_routing_data(evidence.dataset("train"), "divergent")
    TokenAnalysis(
        provenance=evidence.provenance,
        entropy=histogram(torch.from_numpy(score_rows(EntropyRule(), data)), data.labels),
        aleatoric=histogram(torch.from_numpy(score_rows(AleatoricRule(), data)), data.labels),
        frequency=frequency_bands(data.token_ids, data.labels),
    ).save(evidence.results)


def histogram(scores: Tensor, labels: Tensor, num_bins: int = NUM_BINS) -> Histogram:
    """Spread of a score by label.

    Args:
        scores: f32 [tokens].
        labels: i8 [tokens], index into `LABELS`.
        num_bins: Bins of equal width from the least score to the largest.
    """
    low, high = float(scores.min()), float(scores.max())
    edges = torch.linspace(low, high, num_bins + 1)
    chosen = {name: scores[labels == value] for value, name in enumerate(LABELS)}
    return Histogram(
        bin_edges=edges.tolist(),
        counts={name: torch.histc(mine, num_bins, low, high).long().tolist() for name, mine in chosen.items()},
        mean={name: float(mine.mean()) if len(mine) else 0.0 for name, mine in chosen.items()},
        auc=area_under_roc(scores, labels == LABELS.index("divergent")),
    )


def frequency_bands(token_ids: Tensor, labels: Tensor) -> list[FrequencyBand]:
    """Divergence by token frequency.

    Args:
        token_ids: i64 [tokens], the SLM's predictions.
        labels: i8 [tokens].

    Returns:
        Bands whose bounds are powers of 4, rare tokens first; empty bands are left out.
    """
    counts = torch.bincount(token_ids)
    occurrences = counts[token_ids]
    bands, low = [], 1
    while low <= int(counts.max()):
        high = 4 * low - 1
        inside = (occurrences >= low) & (occurrences <= high)
        if bool(inside.any()):
            band = FrequencyBand(
                min_count=low,
                max_count=high,
                num_token_ids=int(((counts >= low) & (counts <= high)).sum()),
                num_tokens=int(inside.sum()),
                num_different=int((labels[inside] > 0).sum()),
                num_divergent=int((labels[inside] == LABELS.index("divergent")).sum()),
            )
            bands.append(band)
        low = high + 1
    return bands
