"""Turns what a request says about routing into a threshold.

Owns the checks of threshold and targets. A target is resolved once, when the request is read: from then on it is a
threshold, which decides the tokens and which a resumed request must share.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, field

from trivium.v1 import orchestrator_pb2

from services.common.access.keys_file import RoutingLimits
from services.common.errors import InvalidRequest, NotAllowed, SweepMissing
from services.common.model_sizes import ModelSizes
from services.common.threshold_table import threshold_for
from services.orchestrator.pair.check import ServedPair


@dataclass(frozen=True, slots=True)
class Budget:
    """What a pair's thresholds cost.

    Args:
        default_threshold: Used when a request says nothing.
        sizes: Of the three models.
        sweep: Threshold and LLM usage of each row of the router's validation sweep; empty where there is none.
        allowed: What the caller may ask for.
    """

    default_threshold: float
    sizes: ModelSizes
    sweep: tuple[tuple[float, float], ...] = ()
    allowed: RoutingLimits = field(default_factory=RoutingLimits)

    @classmethod
    def of(cls, pair: ServedPair, allowed: RoutingLimits | None = None) -> Budget:
        """The budget of a pair."""
        return cls(pair.default_threshold, pair.sizes, pair.sweep, allowed or RoutingLimits())

    def threshold(self, request: orchestrator_pb2.GenerateRequest) -> float:
        """The threshold that a request asks for; of one that asks for none, the closest to the default.

        Raises:
            InvalidRequest: A threshold or target is out of range; the message begins with the field's name.
            SweepMissing: There is a target, or a limit of LLM usage, and the router carries no sweep.
            NotAllowed: The caller may not have that much or that little of the LLM.
        """
        least, most = self._bounds()
        asked = request.WhichOneof("routing")
        if asked is None:
            return min(max(self.default_threshold, least), most)
        threshold = self._asked(request)
        if not least <= threshold <= most:
            raise NotAllowed(
                f"{asked}: it means a threshold of {threshold:.6g}; this key's may be from {least:.6g} to {most:.6g}"
            )
        return threshold

    def _bounds(self) -> tuple[float, float]:
        """The least and the greatest threshold that the caller may have."""
        allowed = self.allowed
        least = _as_float32(allowed.min_threshold)
        most = math.inf if allowed.max_threshold is None else _as_float32(allowed.max_threshold)
        if allowed.max_llm_usage < 1:
            least = max(least, self._limit("max_llm_usage", allowed.max_llm_usage))
        if allowed.min_llm_usage > 0:
            most = min(most, self._limit("min_llm_usage", allowed.min_llm_usage))
        return least, most

    def _limit(self, field: str, usage: float) -> float:
        usage = _as_float32(usage)
        # None and all need no sweep.
        return self._threshold_for(field, usage) if 0 < usage < 1 else threshold_for((), usage)

    def _asked(self, request: orchestrator_pb2.GenerateRequest) -> float:
        match request.WhichOneof("routing"):
            case "threshold":
                if not (math.isfinite(request.threshold) and request.threshold >= 0):
                    raise InvalidRequest(f"threshold: must be finite and at least 0, got {request.threshold}")
                return request.threshold
            case "target_llm_usage":
                # Written so that NaN fails it.
                if not 0 <= request.target_llm_usage <= 1:
                    raise InvalidRequest(f"target_llm_usage: must be in [0, 1], got {request.target_llm_usage}")
                return self._threshold_for("target_llm_usage", request.target_llm_usage)
            case "target_avg_params_b":
                return self._threshold_for("target_avg_params_b", self._usage_for(request.target_avg_params_b))
        return self.default_threshold

    def _usage_for(self, params_b: float) -> float:
        least_params_b, most_params_b = (self.sizes.avg_activated_params_b(usage) for usage in (0.0, 1.0))
        if not least_params_b <= params_b <= most_params_b:
            raise InvalidRequest(
                f"target_avg_params_b: must be in [{least_params_b:.6g}, {most_params_b:.6g}], "
                f"from SLM and router alone to all three; got {params_b:.6g}"
            )
        return self.sizes.llm_usage_rate(params_b)

    def _threshold_for(self, field: str, usage: float) -> float:
        if not self.sweep:
            raise SweepMissing(
                f"{field}: the router's checkpoint carries no validation sweep; "
                "name a threshold, or have `trivium calibrate` make a sweep"
            )
        return threshold_for(self.sweep, usage)


def _as_float32(value: float) -> float:
    """As a request can name it."""
    return float(struct.unpack("<f", struct.pack("<f", value))[0])
