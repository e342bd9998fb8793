"""Writes the values of several repetitions: medians, and where machines are noisy their least and largest as well."""

from __future__ import annotations

import statistics
from collections.abc import Sequence


def median(values: Sequence[float], digits: int = 0) -> str:
    """Such as "78"; "-" where there is no value."""
    return f"{statistics.median(values):.{digits}f}" if values else "-"


def spread(values: Sequence[float], digits: int = 0) -> str:
    """Such as "78 (71-90)"."""
    return f"{median(values, digits)} ({min(values):.{digits}f}-{max(values):.{digits}f})"
