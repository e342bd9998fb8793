"""Whether a stream that was lost is gone on with, and when. Pure: knows no gRPC call and no clock.

Owns the rules of `AsyncClient.generate`: which failures pass, how long it tries, and the pauses between attempts.
"""

from __future__ import annotations

import random

import grpc
from trivium.v1 import orchestrator_pb2 as pb

from services.client.errors import CallFailed
from services.common.errors import PeerUnavailable

FIRST_PAUSE_S = 0.05
"""Most that is waited after the first failure."""

LONGEST_PAUSE_S = 2.0
"""Most that is waited after any failure, beyond what the orchestrator asks for."""


class Retries:
    """What one request may still try.

    Args:
        retry_s: Seconds of failures without any progress after which it is given up.
        draw: Where the jitter comes from.
        has_begun: Whether the request has run somewhere before.
        loss_policy: The request's.
    """

    def __init__(
        self,
        retry_s: float,
        draw: random.Random,
        *,
        has_begun: bool = False,
        loss_policy: pb.LlmLossPolicy.ValueType = pb.LLM_LOSS_POLICY_UNSPECIFIED,
    ) -> None:
        self._retry_s = retry_s
        self._draw = draw
        self._has_begun = has_begun
        self._fails_without_llm = loss_policy == pb.LLM_LOSS_POLICY_FAIL
        self._num_failures = 0
        self._failing_since: float | None = None

    def progressed(self) -> None:
        """Tokens arrived."""
        self._has_begun = True
        self._num_failures = 0
        self._failing_since = None

    def pause_after(self, failure: CallFailed, *, began: float, now: float) -> float | None:
        """Seconds until the next attempt; None if there is to be none.

        Args:
            failure: What the attempt ended with.
            began: When it had a connection, in seconds of any clock.
            now: When it ended.
        """
        if not self._passes(failure):
            return None
        # Nothing was refused: the request may have run, or have waited for its turn.
        self._has_begun = self._has_begun or not failure.kind
        # A connection that has held for so long was good, though nothing came: the request waited for its turn.
        if self._failing_since is None or now - began > self._retry_s:
            self._failing_since = now
            self._num_failures = 0
        pause_s = self._draw.uniform(0, min(FIRST_PAUSE_S * 2.0**self._num_failures, LONGEST_PAUSE_S))
        self._num_failures = min(self._num_failures + 1, 16)
        pause_s += failure.retry_after_s or 0.0
        return pause_s if now + pause_s - self._failing_since <= self._retry_s else None

    def _passes(self, failure: CallFailed) -> bool:
        match failure.code:
            case grpc.StatusCode.UNAVAILABLE:
                return not (self._fails_without_llm and failure.kind == PeerUnavailable.__name__)
            case grpc.StatusCode.CANCELLED:
                # By nobody: an orchestrator that ends cuts off what arrives in that moment.
                return not failure.kind
            case grpc.StatusCode.RESOURCE_EXHAUSTED:
                return self._has_begun and failure.retry_after_s is not None
            case _:
                return False
