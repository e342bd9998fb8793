"""What a benchmark is to whoever runs it: questions with prompts, and a grader."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from evaluation.graders.grade import Grade
from labeler_jobs.queries.rows import QueryError, Row, read_rows

PayloadT = TypeVar("PayloadT")


@dataclass(frozen=True)
class Question(Generic[PayloadT]):
    """One question.

    Attributes:
        question_id: Unique in its suite, and the same whenever the suite is loaded.
        domain: What figures are broken down by.
        prompt: The user's message.
        payload: What the grader needs.
        graded_by: What decides its grade beside the response, where that may change between runs; else empty.
    """

    question_id: str
    domain: str
    prompt: str
    payload: PayloadT
    graded_by: str = ""


class Suite(Protocol[PayloadT]):
    """A benchmark. Close it when its last response is graded."""

    @property
    def name(self) -> str:
        """Its name on the command line and in records."""
        ...

    def load(self, source: str, limit: int | None, seed: int) -> list[Question[PayloadT]]:
        """Loads questions.

        Args:
            source: A JSON, JSONL or Parquet file, a folder of them, or a Hugging Face dataset, "org/name@revision".
                Empty loads what the suite is published as.
            limit: Only the first so many; None loads all.
            seed: Of whatever is drawn for a question, such as the order of its options; a question's draw depends on
                the seed and its id alone.

        Returns:
            Questions with distinct ids, always in the same order.

        Raises:
            QueryError: There is nothing to load, or a row doesn't fit. The message names file, field and row.
        """
        ...

    def grade(self, question: Question[PayloadT], response: str) -> Grade:
        """Grades a response. May take seconds; safe to call from several threads."""
        ...

    def close(self) -> None:
        """Ends what grading has started."""
        ...


@dataclass(frozen=True)
class Published:
    """A part of a suite as it is published on Hugging Face.

    Attributes:
        dataset: Its id and the revision that the project has checked the fields of.
        config: Its configuration; empty for the default one.
        split: Its split.
        label: Put before the ids of its rows, where a suite has several parts.
    """

    dataset: str
    config: str
    split: str
    label: str = ""


def read_parts(source: str, published: Iterable[Published]) -> Iterator[tuple[Published, Row]]:
    """Rows of a source, or of the published parts one after another, each with its part.

    Args:
        source: As in `Suite.load`; its rows belong to a part without label. A dataset is read with the configuration
            and split of the first published part.
        published: The parts that are read if no source is given.

    Raises:
        QueryError: As `read_rows`.
    """
    parts = list(published)
    if source:
        parts = [Published(source, parts[0].config, parts[0].split)]
    for part in parts:
        for row in read_rows(part.dataset, part.config, part.split):
            yield part, row


def distinct(questions: Iterable[Question[PayloadT]], limit: int | None) -> list[Question[PayloadT]]:
    """The first questions.

    Raises:
        QueryError: Two of them have the same id, or there are none.
    """
    found: dict[str, Question[PayloadT]] = {}
    for question in questions:
        if limit is not None and len(found) >= limit:
            break
        if question.question_id in found:
            raise QueryError(f"question {question.question_id!r} is there twice")
        found[question.question_id] = question
    if not found:
        raise QueryError("no question is left")
    return list(found.values())
