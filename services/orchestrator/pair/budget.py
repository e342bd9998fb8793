"""Turns what a request says about routing into a threshold.

Owns the checks of threshold and targets. A target is resolved once, when the request is read: from then on it is a
threshold, which decides the tokens and which a resumed request must share.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from trivium.v1 import orchestrator_pb2

from services.common.errors import InvalidRequest, SweepMissing
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
    """

    default_threshold: float
    sizes: ModelSizes
    sweep: tuple[tuple[float, float], ...] = ()

    @classmethod
    def of(cls, pair: ServedPair) -> Budget:
        """The budget of a pair."""
        return cls(pair.default_threshold, pair.sizes, pair.sweep)

    def threshold(self, request: orchestrator_pb2.GenerateRequest) -> float:
        """The threshold that a request asks for.

        Raises:
            InvalidRequest: A threshold or target is out of range; the message begins with the field's name.
            SweepMissing: There is a target, and the router carries no sweep.
        """
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
            raise SweepMissing(f"{field}: the router's checkpoint carries no validation sweep; name a threshold")
        return threshold_for(self.sweep, usage)
