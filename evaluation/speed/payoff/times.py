"""How long the steps of a pair's models take. Pure data.

`evaluation.speed.payoff.probe` measures the steps; what the orchestrator adds, `passage` there tells.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True, slots=True)
class StepTime:
    """Seconds of a step by its size, linear between the sizes that were measured.

    Below the smallest it takes as long as that one; above the largest it grows as between the two largest.

    Args:
        points: (size, seconds), by rising size, at least one.
    """

    points: tuple[tuple[int, float], ...]

    @classmethod
    def constant(cls, seconds: float) -> StepTime:
        """The same for every size."""
        return cls(((1, seconds),))

    def __post_init__(self) -> None:
        sizes = [size for size, _ in self.points]
        if not sizes or sizes != sorted(set(sizes)):
            raise ValueError(f"points: sizes have to rise, got {sizes}")

    def __call__(self, size: int) -> float:
        """Seconds of a step of this size."""
        first_size, first_s = self.points[0]
        if size <= first_size or len(self.points) == 1:
            return first_s
        for (low, low_s), (high, high_s) in pairwise(self.points):
            if size <= high or (high, high_s) == self.points[-1]:
                return low_s + (high_s - low_s) * (size - low) / (high - low)
        raise AssertionError("the last pair takes all")


@dataclass(frozen=True, slots=True)
class StepTimes:
    """What the steps of both models and the router take, as their caller sees it.

    Args:
        slm_step: Seconds of a drafting step by sequences in it, while the SLM drafts on by itself.
        slm_hop_s: What a draft takes beyond its step, from the command to its arrival.
        slm_prefill: Seconds until the first draft by tokens of the prompt, without that draft's step and hop.
        router: Seconds from a draft to its score, by drafts; None without a router.
        llm_pass: Seconds from the LLM's question to its answer, by tokens that it has to process.
        llm_streams: Likewise, by sequences of one token each.
        slm_slowdown: Factor on the SLM's step while the LLM is at work; 1 where they share nothing.
        llm_slowdown: Likewise on the LLM's pass.
        draft_s: What the orchestrator adds to a message of drafts: from its arrival to what follows from it.
        score_s: What it adds to a message of the router's scores.
        answer_s: What it adds to a message of the LLM's answers.
        slm_crowding: Factor on the SLM's steps where it drafts ahead: the orchestrator and its client are at work by
            then as well, perhaps on the same processors.
        llm_crowding: Likewise on the LLM's passes.
    """

    slm_step: StepTime
    slm_hop_s: float
    slm_prefill: StepTime
    router: StepTime | None
    llm_pass: StepTime
    llm_streams: StepTime
    slm_slowdown: float = 1.0
    llm_slowdown: float = 1.0
    draft_s: float = 0.0
    score_s: float = 0.0
    answer_s: float = 0.0
    slm_crowding: float = 1.0
    llm_crowding: float = 1.0

    @property
    def llm_token_s(self) -> float:
        """What the plain LLM takes for a token of one stream."""
        return self.llm_pass(1)
