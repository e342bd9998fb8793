"""What a verifier is asked and what it answers; the verifiers themselves are passed in.

Source: arXiv:2505.21600 §3.1 (quality verifier on sentence-level path-following).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol


class Label(IntEnum):
    """How an SLM token relates to the LLM's token at the same position."""

    IDENTICAL = 0
    NEUTRAL = 1
    DIVERGENT = 2


@dataclass(frozen=True)
class VerificationCase:
    """Two continuations of one prefix, to be judged.

    Attributes:
        context: Response text before the sentence that holds the differing token.
        llm_sentence: The LLM's own sentence, prefix included.
        slm_sentence: The sentence with the SLM's token in it, continued by the LLM.
        llm_rest: What the LLM's response holds after its sentence.
    """

    context: str
    llm_sentence: str
    slm_sentence: str
    llm_rest: str


@dataclass(frozen=True)
class Verdict:
    """What a verifier makes of one case.

    Attributes:
        divergent: Meaning, reasoning or outcome differ; False when only the wording does.
        unparsable: The verifier's answer could not be read; the case then counts as divergent.
    """

    divergent: bool
    unparsable: bool = False

    @property
    def label(self) -> Label:
        """The label of the token that was judged."""
        return Label.DIVERGENT if self.divergent else Label.NEUTRAL


class Verifier(Protocol):
    """Judges whether differing tokens change what their sentences say."""

    def judge(self, cases: Sequence[VerificationCase]) -> list[Verdict]:
        """Judges a batch of cases.

        Args:
            cases: Pairs of sentences with their surroundings, in any number.

        Returns:
            One verdict a case, in order. A verdict depends on its own case alone.

        Raises:
            VerifierUnreachable: If the verifier could not be asked; none of the batch counts as judged.
        """
        ...


class VerifierUnreachable(Exception):
    """A verifier gave no answer: after all retries, or since a question doesn't fit into its model's context."""
