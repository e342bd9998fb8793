"""Turns a budget into a threshold of a rule.

Owns the checks of thresholds and targets. A target is resolved once, when the request is read: from then on it is a
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
from services.common.threshold_table import SLM_ONLY_THRESHOLD, threshold_for


@dataclass(frozen=True, slots=True)
class Sweep:
    """What the thresholds of a rule cost.

    Args:
        points: Threshold and LLM usage of each row; empty where nothing was measured.
        highest: The greatest threshold that is worth asking for.
        beyond: The least threshold that no score reaches.
        missing: Why there are no points.
    """

    points: tuple[tuple[float, float], ...] = ()
    highest: float = 1.0
    beyond: float = SLM_ONLY_THRESHOLD
    missing: str = "the router's checkpoint carries no validation sweep"

    def threshold_for(self, field: str, usage: float) -> float:
        """The threshold of an LLM usage in [0, 1]. None and all need no points.

        Raises:
            SweepMissing: There are no points; the message begins with `field`.
        """
        if usage <= 0:
            return self.beyond
        if usage < 1 and not self.points:
            raise SweepMissing(f"{field}: {self.missing}; name a threshold, or have `trivium calibrate` make a sweep")
        return threshold_for(self.points, usage, highest=self.highest)


@dataclass(frozen=True, slots=True)
class Budget:
    """What the thresholds of a rule cost one caller.

    Args:
        default_threshold: Used when a request says nothing.
        sizes: Of the models that the rule uses.
        sweep: Of the rule.
        allowed: What the caller may ask for.
    """

    default_threshold: float
    sizes: ModelSizes
    sweep: Sweep = Sweep()
    allowed: RoutingLimits = field(default_factory=RoutingLimits)

    def threshold(self, request: orchestrator_pb2.GenerateRequest) -> float:
        """The threshold that a request asks for; of one that asks for none, the closest to the default.

        Raises:
            InvalidRequest: A threshold or target is out of range; the message begins with the field's name.
            SweepMissing: There is a target, or a limit of LLM usage, and the rule has no sweep.
            NotAllowed: The caller may not have that much or that little of the LLM.
        """
        asked = request.WhichOneof("routing")
        if asked is None:
            least, most = self._bounds()
            return min(max(self.default_threshold, least), most)
        return self.allow(asked, self._asked(request))

    def allow(self, field: str, threshold: float) -> float:
        """Lets the caller have a threshold that `field` asks for; raises as `threshold` does."""
        least, most = self._bounds()
        if not least <= threshold <= most:
            raise NotAllowed(
                f"{field}: it means a threshold of {threshold:.6g}; this key's may be from {least:.6g} to {most:.6g}"
            )
        return threshold

    def _bounds(self) -> tuple[float, float]:
        """The least and the greatest threshold that the caller may have."""
        allowed = self.allowed
        least = _as_float32(allowed.min_threshold)
        most = math.inf if allowed.max_threshold is None else _as_float32(allowed.max_threshold)
        if allowed.max_llm_usage < 1:
            least = max(least, self.sweep.threshold_for("max_llm_usage", _as_float32(allowed.max_llm_usage)))
        if allowed.min_llm_usage > 0:
            most = min(most, self.sweep.threshold_for("min_llm_usage", _as_float32(allowed.min_llm_usage)))
        return least, most

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
                return self.sweep.threshold_for("target_llm_usage", request.target_llm_usage)
            case "target_avg_params_b":
                return self.sweep.threshold_for("target_avg_params_b", self._usage_for(request.target_avg_params_b))
        return self.default_threshold

    def _usage_for(self, params_b: float) -> float:
        least_params_b, most_params_b = (self.sizes.avg_activated_params_b(usage) for usage in (0.0, 1.0))
        if not least_params_b <= params_b <= most_params_b:
            raise InvalidRequest(
                f"target_avg_params_b: must be in [{least_params_b:.6g}, {most_params_b:.6g}], "
                f"from what every token takes to that and the LLM; got {params_b:.6g}"
            )
        return self.sizes.llm_usage_rate(params_b)


def _as_float32(value: float) -> float:
    """As a request can name it."""
    return float(struct.unpack("<f", struct.pack("<f", value))[0])
