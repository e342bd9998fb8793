"""Tells a replica that is silent from one that takes its time.

Owns the time limit, which follows what was measured. Pure: whoever uses it says how much time has passed.
"""

from __future__ import annotations

from dataclasses import dataclass, field

_FACTOR = 3.0
"""So many times the longest wait of late is no sign of trouble."""
_HALF_LIFE_S = 30.0
_MAX_PATIENCE = 8.0
# More than this between two looks is time in which this process itself stood still, and says nothing about the peer.
_MAX_ELAPSED_S = 0.5


@dataclass(slots=True)
class StallWatch:
    """Adds up the time in which something is due from a replica and nothing comes.

    Args:
        least_limit_s: Silence up to this is never a stall, in seconds.
    """

    least_limit_s: float
    _silent_s: float = field(init=False, default=0.0)
    _longest_wait_s: float = field(init=False, default=0.0)
    _patience: float = field(init=False, default=1.0)

    @property
    def limit_s(self) -> float:
        """Silence beyond this is a stall, in seconds."""
        return max(self.least_limit_s * self._patience, _FACTOR * self._longest_wait_s)

    def begin(self) -> None:
        """A stream is open anew."""
        self._silent_s = 0.0

    def heard(self) -> None:
        """The replica said something."""
        self._longest_wait_s = max(self._longest_wait_s, self._silent_s)
        self._silent_s = 0.0

    def tick(self, elapsed_s: float, *, is_due: bool) -> bool:
        """Takes note of the time.

        Args:
            elapsed_s: Seconds since the last call.
            is_due: Whether the replica owes an answer.

        Returns:
            True if it has owed one for longer than the limit.
        """
        elapsed_s = min(elapsed_s, _MAX_ELAPSED_S)
        self._longest_wait_s *= 0.5 ** (elapsed_s / _HALF_LIFE_S)
        self._silent_s = self._silent_s + elapsed_s if is_due else 0.0
        return self._silent_s > self.limit_s

    def was_alive(self) -> None:
        """A replica that had been given up answered at once when it was asked: it is slow, not gone."""
        self._patience = min(2 * self._patience, _MAX_PATIENCE)

    def was_gone(self) -> None:
        """It didn't: it had been given up for good reason."""
        self._patience = 1.0
