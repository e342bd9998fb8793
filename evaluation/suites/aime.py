r"""AIME 2024 and 2025: 60 problems of a mathematics competition, answers from 0 to 999.

Source: arXiv:2505.21600 §5.1; deviation: the prompt's wording is this project's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from evaluation.graders.grade import Grade
from evaluation.graders.math_answer import MathGrader
from evaluation.suites.suite import Published, Question, distinct, read_parts
from labeler_jobs.queries.rows import Row

PUBLISHED = (
    Published("HuggingFaceH4/aime_2024@2fe88a2f1091d5048c0f36abc874fb997b3dd99a", "", "train", "2024"),
    Published("opencompass/AIME2025@a6ad95f611d72cf628a80b58bd0432ef6638f958", "AIME2025-I", "test", "2025-I"),
    Published("opencompass/AIME2025@a6ad95f611d72cf628a80b58bd0432ef6638f958", "AIME2025-II", "test", "2025-II"),
)
PROMPT = "{problem}\n\nReason step by step, and put the final answer in \\boxed{{}}."
_MAX_ANSWER = 999
# One answer of the published set of 2025 carries a unit: "336^\circ".
_ANSWER = re.compile(r"0*(\d{1,3})(?:\^\\circ)?")


class AimeSuite:
    """Problems with their answers as payload.

    Fields of a row: the problem as `problem`, `Problem`, `question` or `Question`; the answer as `answer` or
    `Answer`; and, if there is one, `id`, `ID` or `problem_idx`.
    """

    name = "aime"

    def __init__(self) -> None:
        self._grader = MathGrader()

    def load(self, source: str, limit: int | None, seed: int) -> list[Question[int]]:
        """Loads problems; see `Suite.load`."""
        return distinct(self._questions(source), limit)

    def grade(self, question: Question[int], response: str) -> Grade:
        """Grades a response; see `Suite.grade`."""
        return self._grader.grade(response, str(question.payload))

    def close(self) -> None:
        """Ends the worker that compares answers."""
        self._grader.close()

    def _questions(self, source: str) -> Iterator[Question[int]]:
        for part, row in read_parts(source, PUBLISHED):
            own_id = row.text("id", "ID", "problem_idx", default=str(row.number))
            yield Question(
                question_id=f"aime-{part.label}-{own_id}" if part.label else f"aime-{own_id}",
                domain="math",
                prompt=PROMPT.format(problem=row.text("problem", "Problem", "question", "Question").strip()),
                payload=_read_answer(row),
            )


def _read_answer(row: Row) -> int:
    text = row.answer("answer", "Answer")
    match = _ANSWER.fullmatch(text)
    if match is None:
        name = "answer" if row.has("answer") else "Answer"
        raise row.wrong(name, f"expected a whole number from 0 to {_MAX_ANSWER}, found {text!r}")
    return int(match[1])
