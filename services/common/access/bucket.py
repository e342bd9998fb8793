"""A budget of tokens that fills up with time. Pure: knows no clock."""

from __future__ import annotations


class TokenBucket:
    """Holds at most a minute's tokens, and starts full.

    Whoever has any may begin, whatever it will take: the level may fall below zero, and has to come back first.

    Args:
        per_minute: Tokens that flow in within a minute, and the most that it holds; None for a budget without end.
        now: The time in seconds, of any clock.
    """

    def __init__(self, per_minute: int | None, now: float) -> None:
        self._per_minute = per_minute
        self._level = float(per_minute or 0)
        self._at = now

    def set_rate(self, per_minute: int | None, now: float) -> None:
        """Another budget from now on; what was taken too much is still owed."""
        self._fill(now)
        if per_minute is not None:
            # What never ended has left nothing to keep.
            self._level = float(per_minute) if self._per_minute is None else min(self._level, float(per_minute))
        self._per_minute = per_minute

    def take(self, num_tokens: int, now: float) -> None:
        """Takes tokens, whether or not there are as many."""
        if self._per_minute is not None:
            self._fill(now)
            self._level -= num_tokens

    def wait_s(self, now: float) -> float:
        """Seconds until there is a token; 0 if there is one."""
        if self._per_minute is None:
            return 0.0
        self._fill(now)
        return max(0.0, (1.0 - self._level) * 60.0 / self._per_minute)

    def _fill(self, now: float) -> None:
        if self._per_minute is not None:
            gained = (now - self._at) * self._per_minute / 60.0
            self._level = min(float(self._per_minute), self._level + gained)
        self._at = now
