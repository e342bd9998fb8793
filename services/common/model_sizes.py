"""Average activated parameters: what a token takes of a pair's models, and the LLM usage that a budget allows.

Pure. Owns the formula, which the orchestrator, calibration and evaluation share.

Source: arXiv:2505.21600 §5.1; deviation: none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

_BILLION = 1e9
_Counts = TypeVar("_Counts", float, NDArray[np.float64])


@dataclass(frozen=True, slots=True)
class ModelSizes:
    """Sizes of the three models of a pair, in parameters.

    Args:
        slm: The small model.
        router: The router.
        llm: The large model.
    """

    slm: int
    router: int
    llm: int

    def activated_params_b(self, num_tokens: _Counts, num_llm_tokens: _Counts) -> _Counts:
        """Parameters that take part in a response, summed over its tokens, in billions.

        Args:
            num_tokens: Emitted tokens, of one response or of each of many.
            num_llm_tokens: Those of them that the LLM wrote.
        """
        return ((self.slm + self.router) * num_tokens + self.llm * num_llm_tokens) / _BILLION

    def avg_activated_params_b(self, llm_usage_rate: float) -> float:
        """Parameters that take part in a token on average, in billions.

        Args:
            llm_usage_rate: Tokens written by the LLM / all tokens, in [0, 1].
        """
        return self.activated_params_b(1.0, llm_usage_rate)

    def llm_usage_rate(self, avg_activated_params_b: float) -> float:
        """The LLM usage rate at which this many parameters take part in a token; outside [0, 1] if none is.

        Args:
            avg_activated_params_b: On average, in billions.
        """
        return (avg_activated_params_b * _BILLION - self.slm - self.router) / self.llm
