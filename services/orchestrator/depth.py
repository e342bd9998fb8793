"""How far the SLM may run ahead of the oldest undecided token.

Owns the policy only; `services.orchestrator.core` applies it. Depth changes speed, never tokens.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class RunAhead:
    """Adapts the run-ahead depth: one deeper when the LLM agrees, half as deep when drafts had to be dropped.

    A run of agreements means that drafting past a flagged token pays; dropped drafts are work the SLM did in vain.
    While the SLM can't fit all its sequences into one step it is the bottleneck, and every dropped draft delays
    another sequence: then nothing is drafted past an undecided token.

    Args:
        maximum: Largest depth; 0 is the paper's own schedule (arXiv:2505.21600 §4.3).
        minimum: Smallest depth while the SLM has room.
    """

    maximum: int
    minimum: int = 0
    slm_saturated: bool = False
    _depth: int = -1

    def __post_init__(self) -> None:
        if not 0 <= self.minimum <= self.maximum:
            raise ValueError(f"run-ahead depth: 0 <= minimum <= maximum, got {self.minimum} and {self.maximum}")
        self._depth = self.maximum

    @property
    def depth(self) -> int:
        """Positions past the oldest undecided one that may be drafted."""
        return 0 if self.slm_saturated else self._depth

    def agreed(self) -> None:
        """The LLM wrote the token that the SLM had drafted."""
        self._depth = min(self.maximum, self._depth + 1)

    def disagreed(self, num_dropped: int) -> None:
        """The LLM wrote another token, and `num_dropped` drafts after it were dropped."""
        if num_dropped:
            self._depth = max(self.minimum, self._depth // 2)
