"""How a rule decides about the drafts of one sequence. Pure: the routing core asks a decider, and knows no rule.

A decision depends on the prefix and the draft alone: never on time, batches, replicas, or the order in which scores
arrive. That is what keeps every rule exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Protocol


class Verdict(Enum):
    """What becomes of a draft."""

    ACCEPT = 1
    """It stands."""
    ASK = 2
    """The LLM writes the token."""
    CONFIRM = 3
    """It stands if the LLM would write the same; else the LLM writes the token."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A draft that a decider is asked about.

    Args:
        position: Its index in the sequence, prompt included.
        token_id: The SLM's token.
        score: What the rule's evidence says about it; 0 where the rule needs none.
    """

    position: int
    token_id: int
    score: float


class Decider(Protocol):
    """Decides for one sequence.

    One that keeps state says so by `in_order`. It is asked about a position once, when the tokens before it are
    final, and is told of each of them: of those of an earlier life of the sequence too, so that its state is a
    function of the prefix. Any other may be asked in any order, more than once, about drafts that are dropped later.
    """

    in_order: bool

    def verdict(self, draft: Draft) -> Verdict:
        """Decides about a draft."""

    def accepted(self, token_id: int, *, by_llm: bool, score: float) -> None:
        """The next token of the completion is final. Told in order, to in-order deciders alone.

        Args:
            token_id: The token.
            by_llm: Whether the LLM wrote it, be it the same as the draft: it was asked to, or didn't confirm it.
            score: Of the draft at its position.
        """


class Stateless:
    """What deciders have in common that keep no state."""

    in_order = False

    def accepted(self, token_id: int, *, by_llm: bool, score: float) -> None:
        """Isn't told."""


class Threshold(Stateless):
    """Asks the LLM where the score reaches a threshold.

    Args:
        threshold: Finite. 0 is LLM only for scores from 0 on.
    """

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold

    def verdict(self, draft: Draft) -> Verdict:
        """Accepts a score below the threshold."""
        return Verdict.ACCEPT if draft.score < self._threshold else Verdict.ASK


class Always(Stateless):
    """Decides alike about every draft.

    Args:
        verdict: How.
    """

    def __init__(self, verdict: Verdict) -> None:
        self._verdict = verdict

    def verdict(self, draft: Draft) -> Verdict:
        """Looks at nothing."""
        return self._verdict
