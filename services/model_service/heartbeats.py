"""Knows which streams were not told for too long that passes go on.

Owns the times. Whether a stream waits for anything, and what it is told, is the servicer's. Times are in seconds, of
any clock that doesn't go back.
"""

from __future__ import annotations

from typing import Generic, TypeVar

StreamT = TypeVar("StreamT")

HEARTBEAT_S = 0.5
"""How long a stream that waits for something is sent nothing while passes go on."""


class Heartbeats(Generic[StreamT]):
    """When each stream was last told that a pass was completed.

    Args:
        interval_s: How long a stream may go without being told, in seconds.
    """

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._told_at: dict[StreamT, float] = {}

    def told(self, stream: StreamT, now: float) -> None:
        """The stream begins, or is sent what a pass brought it."""
        self._told_at[stream] = now

    def ended(self, stream: StreamT) -> None:
        """The stream is over."""
        del self._told_at[stream]

    def due(self, now: float) -> list[StreamT]:
        """Streams that were told nothing for the interval."""
        return [stream for stream, told_at in self._told_at.items() if now - told_at >= self._interval_s]
