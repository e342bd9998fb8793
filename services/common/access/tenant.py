"""A tenant: what its requests may take, and what those that run have taken."""

from __future__ import annotations

import enum
import time
from collections.abc import Callable
from dataclasses import dataclass

from services.common.access.bucket import TokenBucket
from services.common.access.keys_file import TenantLimits

_BUSY_RETRY_S = 1.0


class Reason(enum.Enum):
    """Why somebody is refused."""

    UNKNOWN_KEY = "unknown_key"
    EXPIRED_KEY = "expired_key"
    TOO_MANY_REQUESTS = "too_many_requests"
    TOO_MANY_TOKENS = "too_many_tokens"


@dataclass(frozen=True, slots=True)
class Refusal:
    """A caller that is refused.

    Args:
        reason: Why.
        message: The same for the caller. Holds no key.
        retry_after_s: When the same call may be taken, in seconds; None for never.
    """

    reason: Reason
    message: str
    retry_after_s: float | None = None


class Tenant:
    """One tenant of this process.

    Args:
        name: Lower-case letters, digits and "-".
        limits: What it may take; may be replaced at any time.
        clock: Tells the time in seconds; never goes back.
    """

    def __init__(self, name: str, limits: TenantLimits, clock: Callable[[], float] = time.monotonic) -> None:
        self.name = name
        self.limits = limits
        self.num_running = 0
        """Requests that run."""
        self._clock = clock
        self._bucket = TokenBucket(limits.tokens_per_minute, clock())

    @property
    def namespace(self) -> str:
        """What the names of its requests begin with, wherever those of several tenants meet."""
        return f"{self.name}/"

    def set_limits(self, limits: TenantLimits) -> None:
        """Other limits from now on; what runs goes on."""
        if limits.tokens_per_minute != self.limits.tokens_per_minute:
            self._bucket.set_rate(limits.tokens_per_minute, self._clock())
        self.limits = limits

    def enter(self) -> Refusal | None:
        """A request comes. Unless it is refused, it counts until `leave`."""
        most = self.limits.max_concurrent_requests
        if most is not None and self.num_running >= most:
            message = f"max_concurrent_requests: {most} requests of tenant {self.name!r} run already"
            return Refusal(Reason.TOO_MANY_REQUESTS, message, _BUSY_RETRY_S)
        if wait_s := self._bucket.wait_s(self._clock()):
            message = f"tokens_per_minute: tenant {self.name!r} has used its {self.limits.tokens_per_minute}"
            return Refusal(Reason.TOO_MANY_TOKENS, message, wait_s)
        self.num_running += 1
        return None

    def leave(self) -> None:
        """A request that had entered is over."""
        self.num_running -= 1

    def charge(self, num_tokens: int) -> None:
        """Prompt tokens were read, or completion tokens written."""
        self._bucket.take(num_tokens, self._clock())
