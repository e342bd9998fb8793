"""What a verifier is asked and what it answers; the verifiers themselves are passed in.

Source: arXiv:2505.21600 §3.1 (quality verifier on sentence-level path-following).
"""

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


class Verifier(Protocol):
    """Judges whether a differing token changes what a sentence says."""

    def is_divergent(self, case: VerificationCase) -> bool:
        """Tell whether the SLM's sentence says something else than the LLM's.

        Args:
            case: The two sentences and their surroundings.

        Returns:
            True when meaning, reasoning or outcome differ; False when only the wording does.
        """
        ...
