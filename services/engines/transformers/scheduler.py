"""Which sequences run in the next step, and how many tokens of each.

Owns fairness: who has waited longest comes first, and short rows (decoding) take turns with long ones (prefill), so
that a long prompt delays others by one chunk at most. Pure: no tensors, no clocks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from services.engines.transformers.sequence import CachedSequence

SHORT_LEN = 16
"""Rows of at most this many new tokens count as decoding."""

S = TypeVar("S", bound=CachedSequence)


@dataclass(frozen=True, slots=True)
class Scheduled(Generic[S]):
    """A row of the next step.

    Args:
        sequence: Whose.
        num_new: How many of its pending tokens.
        reaches_end: They are all that was pending.
        version: The sequence's version; when it has changed after the pass, the row's result is worthless.
    """

    sequence: S
    num_new: int
    reaches_end: bool
    version: int


class Scheduler(Generic[S]):
    """Chooses the rows of a pass.

    Args:
        max_batch_size: Most rows of a pass.
        chunk_len: Most tokens of a pass over long rows, padding included; one row may always run.
    """

    def __init__(self, max_batch_size: int, chunk_len: int) -> None:
        self._max_batch_size = max_batch_size
        self._chunk_len = chunk_len
        self._turn = 0
        self._long_was_last = False

    def select(self, due: Iterable[S]) -> list[Scheduled[S]]:
        """Rows of the next step. Empty if nothing is due."""
        ordered = sorted(due, key=lambda sequence: sequence.turn)
        short = [sequence for sequence in ordered if sequence.num_pending <= SHORT_LEN]
        long = [sequence for sequence in ordered if sequence.num_pending > SHORT_LEN]
        self._long_was_last = bool(long) and not (short and self._long_was_last)
        if self._long_was_last:
            rows = self._fill_chunk(long)
        else:
            rows = [_schedule(sequence) for sequence in short[: self._max_batch_size]]
        for row in rows:
            self._turn += 1
            row.sequence.turn = self._turn
        return rows

    def _fill_chunk(self, long: Sequence[S]) -> list[Scheduled[S]]:
        rows: list[Scheduled[S]] = []
        longest = 0
        for sequence in long[: self._max_batch_size]:
            row = _schedule(sequence, self._chunk_len)
            longest = max(longest, row.num_new)
            if rows and longest * (len(rows) + 1) > self._chunk_len:
                break
            rows.append(row)
        return rows


def _schedule(sequence: S, limit: int = SHORT_LEN) -> Scheduled[S]:
    num_new = min(sequence.num_pending, limit)
    return Scheduled(sequence, num_new, num_new == sequence.num_pending, sequence.version)
