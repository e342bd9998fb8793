"""Whether any replica of a service is there, after a time of grace.

Pure: whoever uses it says how much time has passed.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Presence:
    """A service is *gone* once none of its replicas has taken work for `grace_s` seconds, and back with the first.

    Args:
        grace_s: How long it may be away.
    """

    grace_s: float
    is_gone: bool = field(init=False, default=False)
    _absent_s: float | None = field(init=False, default=None)

    def tick(self, elapsed_s: float, *, is_there: bool) -> bool:
        """Takes note of the time. Returns whether the service has gone or come back with this call."""
        if is_there:
            self._absent_s = None
        else:
            # It may have gone just now: the time before the first look doesn't count.
            self._absent_s = 0.0 if self._absent_s is None else self._absent_s + elapsed_s
        was_gone, self.is_gone = self.is_gone, self._absent_s is not None and self._absent_s >= self.grace_s
        return self.is_gone is not was_gone
