"""What a grader says about a response, and which parts a response has."""

from dataclasses import dataclass

THINK_END = "</think>"


@dataclass(frozen=True)
class Grade:
    """The verdict on one response.

    Attributes:
        correct: Whether it answers the question.
        extracted: The answer that was read from it; None where there is none.
        reason: Why it is right or wrong, in a few words.
    """

    correct: bool
    extracted: str | None
    reason: str


def parts(response: str) -> tuple[str, str]:
    """The thinking and the reply; without an end of thinking all of it is the reply."""
    thinking, _, reply = response.rpartition(THINK_END)
    return thinking, reply
