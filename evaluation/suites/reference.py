"""The reference suite: held-out queries of the synthetic corpus that the reference pair was trained on."""

from __future__ import annotations

from evaluation.graders.grade import Grade
from evaluation.reference.corpus.samples import unseen_samples
from evaluation.reference.corpus.verifier import extract_answer, is_correct
from evaluation.suites.suite import Question
from labeler_jobs.queries.rows import QueryError

DEFAULT_LIMIT = 1002
"""Queries where none are asked for: as many of each of the three domains."""


class ReferenceSuite:
    """Queries with their answers as payload."""

    name = "reference"

    def load(self, source: str, limit: int | None, seed: int) -> list[Question[int]]:
        """Draws queries; see `Suite.load`. They come from the corpus, so there is no source to read.

        Raises:
            QueryError: A source is given.
        """
        if source:
            raise QueryError(f"{source}: the reference suite draws its own queries; name no data")
        samples = unseen_samples("held_out", DEFAULT_LIMIT if limit is None else limit)
        return [Question(str(sample.index), sample.domain, sample.query, sample.answer) for sample in samples]

    def grade(self, question: Question[int], response: str) -> Grade:
        """Grades a response; see `Suite.grade`."""
        extracted = extract_answer(response)
        if extracted is None:
            return Grade(correct=False, extracted=None, reason="states no answer")
        correct = is_correct(response, question.payload)
        return Grade(correct, str(extracted), f"stated, {question.payload} is right")

    def close(self) -> None:
        """Nothing to end."""
