"""The questions that an LLM replica hasn't answered yet: the replica's demand.

Owns their counts and how long they took. What a question means is the engine's.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class _Question:
    pass_id: int
    num_positions: int
    asked_at: float


class Questions:
    """At most one question a sequence. Times are in seconds, of any clock that doesn't go back."""

    def __init__(self) -> None:
        self.num_positions = 0
        """Positions that wait for an answer."""
        self.num_positions_answered = 0
        """Positions answered so far."""
        self._of: dict[int, _Question] = {}

    def __len__(self) -> int:
        """Sequences with a question."""
        return len(self._of)

    def __contains__(self, sequence_id: int) -> bool:
        """Whether a sequence has a question."""
        return sequence_id in self._of

    def asked(self, sequence_id: int, pass_id: int, num_positions: int, now: float) -> None:
        """A sequence asks; its earlier question, if there is one, is void."""
        self.withdrawn(sequence_id)
        self._of[sequence_id] = _Question(pass_id, num_positions, now)
        self.num_positions += num_positions

    def answered(self, sequence_id: int, pass_id: int, now: float) -> float | None:
        """A pass was answered. Returns the seconds since it was asked; None if it isn't the sequence's question."""
        question = self._of.get(sequence_id)
        if question is None or question.pass_id != pass_id:
            return None
        self.num_positions_answered += question.num_positions
        self.withdrawn(sequence_id)
        return now - question.asked_at

    def withdrawn(self, sequence_id: int) -> None:
        """Nobody waits for the answer any more. Sequences without a question are ignored."""
        question = self._of.pop(sequence_id, None)
        if question is not None:
            self.num_positions -= question.num_positions
