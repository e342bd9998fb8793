"""Finds the threshold that reaches a target, by interpolating in a table of measured thresholds.

Pure. Owns what calibration and requests with a budget share: which measure of a sweep counts, and the arithmetic.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from itertools import pairwise

SLM_ONLY_THRESHOLD = 1.0 + 2**-23
"""The least float32 above 1: no probability reaches it."""


def usage_points(rows: Iterable[tuple[float, float, float | None]]) -> list[tuple[float, float]]:
    """Chooses what a sweep says about LLM usage.

    Args:
        rows: Threshold of each row, its LLM usage on labelled tokens, and its LLM usage while decoding; None where
            that wasn't measured.

    Returns:
        Threshold and LLM usage: while decoding, which is what a budget means, of the rows that have it; else on
        labelled tokens, of all.
    """
    table = list(rows)
    decoded = [(threshold, usage) for threshold, _, usage in table if usage is not None]
    return decoded or [(threshold, usage) for threshold, usage, _ in table]


def threshold_for(points: Iterable[tuple[float, float]], target: float, *, highest: float = 1.0) -> float:
    """Finds the threshold at which a measure reaches a target.

    Args:
        points: Threshold and measure of each row of a table, in any order. The measure is a share in [0, 1] that
            falls as the threshold rises, 1 at threshold 0 and 0 above `highest`: LLM usage or recall. Where noise
            lets it rise, the larger value counts.
        target: The share to reach; 0 and less means none, 1 and more all.
        highest: The greatest threshold that is worth asking for; of probabilities 1.

    Returns:
        The threshold, linear between neighbouring rows, as a float32 can hold it.
    """
    if target <= 0.0:
        return SLM_ONLY_THRESHOLD
    reached = 0.0
    ends = [(highest, 0.0), *sorted(points, reverse=True), (0.0, 1.0)]
    for (above, _), (below, measure) in pairwise(ends):
        if measure >= target and measure > reached:
            # The share first: its product with a difference could underflow.
            share = (target - reached) / (measure - reached)
            threshold = max(below, above + (below - above) * share)
            return float(struct.unpack("<f", struct.pack("<f", threshold))[0])
        reached = max(reached, measure)
    return 0.0
