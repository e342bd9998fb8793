"""How far the SLM may run ahead of the oldest undecided token.

Owns the policy only; `services.orchestrator.routing.core` applies it. Depth changes speed, never tokens.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class RunAhead:
    """Adapts the run-ahead depth: one deeper with each token accepted, half as deep when drafts had to be dropped.

    Where the LLM overrules the SLM once in fifty tokens, as in the calibrated pair, depth is back at its maximum
    soon: waiting for an answer costs more than dropping drafts. Where it overrules every other token, as it may when
    it decides about all of them, little is drafted and asked in vain.
    While the SLM can't fit all its sequences into one step it is the bottleneck, and every dropped draft delays
    another sequence: then nothing is drafted past an undecided token.

    Args:
        maximum: Largest depth; 0 is the paper's own schedule (arXiv:2505.21600 §4.3).
    """

    maximum: int
    slm_saturated: bool = False
    _depth: int = -1

    def __post_init__(self) -> None:
        if self.maximum < 0:
            raise ValueError(f"run-ahead depth: at least 0, got {self.maximum}")
        self._depth = self.maximum

    @property
    def depth(self) -> int:
        """Positions past the oldest undecided one that may be drafted."""
        return 0 if self.slm_saturated else self._depth

    def accepted(self, num_tokens: int) -> None:
        """So many more tokens became final."""
        self._depth = min(self.maximum, self._depth + num_tokens)

    def overruled(self, num_dropped: int) -> None:
        """The LLM wrote another token, and `num_dropped` drafts after it were dropped."""
        if num_dropped:
            self._depth //= 2
