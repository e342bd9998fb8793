"""A user's own questions as a suite."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path

from evaluation.graders.choice_letter import grade_choice
from evaluation.graders.code_tests import grade_program
from evaluation.graders.grade import Grade
from evaluation.graders.math_answer import MathGrader
from evaluation.graders.sandbox import Sandbox
from evaluation.suites.own.judge import AnswerJudge
from evaluation.suites.own.rows import GraderName, OwnQuestion, read_question, tests_of
from evaluation.suites.own.text_answers import grade_exact, grade_pattern
from evaluation.suites.suite import Question, distinct
from labeler_jobs.queries.rows import QueryError, Row, read_rows
from labeler_jobs.verifiers.llm_verifier import TextGenerator


class OwnSuite:
    """The questions of one file.

    Args:
        path: JSON, JSONL, CSV or Parquet, with the fields of `rows.read_question`.
        grader: Grades rows that name none; None if all do.
        taken: Names of other suites, which this one doesn't take, whatever its file is called.
        open_sandbox: Opens what runs programs, if there are any.
        open_judge: Opens the model that verifies, if a row asks for one, and tells whether it can be reached.
    """

    def __init__(
        self,
        path: Path,
        grader: GraderName | None,
        *,
        taken: Collection[str],
        open_sandbox: Callable[[], Sandbox],
        open_judge: Callable[[], TextGenerator],
    ) -> None:
        name = re.sub(r"[^\w.-]+", "-", path.stem)
        self.name = f"own-{name}" if name in taken else name
        self._path = path
        self._grader = grader
        self._open_sandbox, self._open_judge = open_sandbox, open_judge
        self._math = MathGrader()
        self._sandbox: Sandbox | None = None
        self._judge: AnswerJudge | None = None

    def load(self, source: str, limit: int | None, seed: int) -> list[Question[OwnQuestion]]:
        """Loads the questions, and opens what their graders need; see `Suite.load`.

        Raises:
            SandboxUnavailable: Programs can't be isolated here.
            VerifierChoiceError: A row is for a verifier, and none can be had.
            VerifierUnreachable: The verifier can't be asked.
        """
        if self._path.is_dir():
            raise QueryError(f"{self._path}: is a folder; name one file of questions")
        rows = read_rows(str(self._path), "", "")
        questions = distinct(map(self._question, self._read(rows)), limit)
        for question in questions:
            self._check_number(question.payload)
        graders = {question.payload.grader for question in questions}
        if "program" in graders:
            self._sandbox = self._open_sandbox()
        if "verifier" in graders:
            self._judge = AnswerJudge(self._open_judge())
        return questions

    def grade(self, question: Question[OwnQuestion], response: str) -> Grade:
        """Grades a response by its row's grader; see `Suite.grade`.

        Raises:
            SandboxUnavailable: Programs can't be isolated here.
            VerifierUnreachable: The verifier can't be asked, or says nothing that can be read.
        """
        asked = question.payload
        match asked.grader:
            case "choice":
                return grade_choice(response, asked.answer, asked.letters)
            case "number":
                return self._math.grade(response, asked.answer)
            case "exact":
                return grade_exact(response, asked.answer)
            case "regex":
                return grade_pattern(response, asked.answer)
            case "program":
                assert self._sandbox is not None
                return grade_program(response, tests_of(asked).tests, asked.function, self._sandbox)
            case "verifier":
                assert self._judge is not None
                return self._judge.grade(asked, response)

    def close(self) -> None:
        """Ends the worker that compares numbers."""
        self._math.close()

    def _read(self, rows: Iterable[Row]) -> Iterator[OwnQuestion]:
        ids = set()
        for row in rows:
            asked = read_question(row, self._grader)
            if asked.row_id in ids:
                raise row.wrong("id", f"is {asked.row_id!r}, as in an earlier row")
            ids.add(asked.row_id)
            yield asked

    def _question(self, asked: OwnQuestion) -> Question[OwnQuestion]:
        graded_by = "\n".join((asked.grader, asked.answer, asked.letters, asked.tests, asked.function or ""))
        return Question(f"{self.name}-{asked.row_id}", asked.domain, asked.prompt, asked, graded_by)

    def _check_number(self, asked: OwnQuestion) -> None:
        if asked.grader == "number" and not self._math.grade(f"\\boxed{{{asked.answer}}}", asked.answer).correct:
            raise QueryError(f"{asked.place}: field 'answer' is {asked.answer!r}, which can't be read as mathematics")
