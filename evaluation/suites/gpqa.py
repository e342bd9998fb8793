r"""GPQA-diamond: 198 multiple-choice questions of graduate level, in biology, chemistry and physics.

The right option comes first in every row of the data, so options are shuffled, by the seed and the question's id: the
same order in every run of a seed, whichever other questions run.

Source: arXiv:2505.21600 §5.1; deviation: the prompt's wording is this project's.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from evaluation.graders.choice_letter import LETTERS, grade_choice
from evaluation.graders.grade import Grade
from evaluation.suites.suite import Published, Question, distinct, read_parts
from labeler_jobs.queries.rows import Row

# Its publishers ask for an agreement first; `hf auth login` tells `datasets` who has given it.
PUBLISHED = (Published("Idavidrein/gpqa@633f5ee89ab8ad4522a9f850766b73f62147ffdd", "gpqa_diamond", "train"),)
PROMPT = "{question}\n\n{options}\n\nReason step by step, and put the letter of the right option in \\boxed{{}}."
_RIGHT = "Correct Answer"
_WRONG = ("Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")


class GpqaSuite:
    """Questions with the letter of the right option as payload.

    Fields of a row: `Question`, `Correct Answer`, `Incorrect Answer 1` to `3`, and, if they are there, `Record ID`
    and `High-level domain`.
    """

    name = "gpqa"

    def load(self, source: str, limit: int | None, seed: int) -> list[Question[str]]:
        """Loads questions; see `Suite.load`."""
        return distinct(self._questions(source, seed), limit)

    def grade(self, question: Question[str], response: str) -> Grade:
        """Grades a response; see `Suite.grade`."""
        return grade_choice(response, question.payload)

    def close(self) -> None:
        """Nothing to end."""

    def _questions(self, source: str, seed: int) -> Iterator[Question[str]]:
        for _, row in read_parts(source, PUBLISHED):
            question_id = f"gpqa-{row.text('Record ID', default=str(row.number))}"
            options, letter = _shuffled(row, f"{seed}/{question_id}")
            lines = "\n".join(f"({mark}) {option}" for mark, option in zip(LETTERS, options, strict=True))
            yield Question(
                question_id=question_id,
                domain=row.text("High-level domain", default="gpqa").strip().lower(),
                prompt=PROMPT.format(question=row.text("Question").strip(), options=lines),
                payload=letter,
            )


def _shuffled(row: Row, key: str) -> tuple[list[str], str]:
    right = row.text(_RIGHT).strip()
    options = [right, *(row.text(name).strip() for name in _WRONG)]
    if options.count(right) > 1:
        raise row.wrong(_RIGHT, f"is an incorrect answer as well: {right!r}")
    random.Random(key).shuffle(options)
    return options, LETTERS[options.index(right)]
