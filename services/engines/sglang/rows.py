"""What passes between the engines and the sampler in SGLang's scheduler, through SGLang.

Owns the names under which it passes, and the byte layout of a row: two counters, then the raw top logits, then the
hidden state. Doesn't need torch.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.engines.base import TOP_LOGITS

ROWS_KEY = "trivium_rows"
"""Name under which the rows appear in SGLang's `meta_info`, one a token."""

REQUEST_KEY = "trivium"
"""Name of Trivium's parameters among a request's `custom_params`."""

_COUNTERS = struct.Struct("<QQ")


@dataclass(frozen=True, slots=True)
class Row:
    """What the sampler says of one token.

    Args:
        num_steps: Forward passes of the scheduler so far.
        num_rows: Rows of all these passes.
        top_logits: [100] float32, raw, descending; empty where no features were asked for.
        hidden_state: [hidden] float32; empty where no features were asked for.
    """

    num_steps: int
    num_rows: int
    top_logits: NDArray[np.float32]
    hidden_state: NDArray[np.float32]


def pack_row(num_steps: int, num_rows: int, features: NDArray[np.float32] | None) -> bytes:
    """Packs the counters and [100 + hidden] float32 features, little-endian."""
    counters = _COUNTERS.pack(num_steps, num_rows)
    return counters if features is None else counters + features.astype("<f4", copy=False).tobytes()


def unpack_rows(data: bytes, num_rows: int) -> list[Row]:
    """Undoes `pack_row` for rows of one length that follow each other.

    Raises:
        ValueError: The data isn't that many rows.
    """
    row_len = len(data) // max(num_rows, 1)
    if row_len * num_rows != len(data) or (num_rows and row_len < _COUNTERS.size):
        raise ValueError(f"rows: {len(data)} bytes aren't {num_rows} rows")
    if num_rows == 0:
        return []
    return [_unpack_row(data[start : start + row_len]) for start in range(0, len(data), row_len)]


def _unpack_row(data: bytes) -> Row:
    num_steps, num_rows = _COUNTERS.unpack_from(data)
    features = np.frombuffer(data, dtype="<f4", offset=_COUNTERS.size)
    return Row(num_steps, num_rows, features[:TOP_LOGITS], features[TOP_LOGITS:])
