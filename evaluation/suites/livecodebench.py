"""LiveCodeBench, problems of 2024-08 to 2025-01: programs graded by all public and private tests of a problem.

Problems with starter code ask for a function or method, the others for a program from stdin to stdout. Programs run
in `evaluation.graders.sandbox`.

Source: arXiv:2505.21600 §5.1; deviation: the prompt's wording is this project's.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

from evaluation.graders.code_tests import grade_program
from evaluation.graders.grade import Grade
from evaluation.graders.sandbox import Sandbox
from evaluation.suites.contest_tests import Kind, TestsError, read_tests
from evaluation.suites.suite import Published, Question, distinct, read_parts
from labeler_jobs.queries.rows import QueryError, Row

# The authors' own dataset as Parquet: `datasets` no longer runs the script that theirs comes with.
PUBLISHED = (
    Published("lighteval/code_generation_lite@89e5fc5c2a8e748f50e95bc7235fab2372d49bfa", "release_v5", "test"),
)
FIRST_DAY = datetime.date(2024, 8, 1)
LAST_DAY = datetime.date(2025, 1, 31)

_FUNCTION = (
    "{content}\n\nComplete this code. Reason step by step, and give the whole of it in one fenced block of Python at "
    "the end:\n```python\n{starter}\n```"
)
_PROGRAM = (
    "{content}\n\nWrite a Python program that reads its input from stdin and writes the answer to stdout. Reason "
    "step by step, and give the whole program in one fenced block of Python at the end."
)


@dataclass(frozen=True)
class Contest:
    """What a program is graded by.

    Attributes:
        function: The function or method that is called; None for a program on stdin.
        fields: The row's fields of tests, as they came: unpacked they can be hundreds of megabytes, so they are read
            again when a program is graded.
    """

    function: str | None
    fields: tuple[str, ...]


class LiveCodeBenchSuite:
    """Problems of a range of days.

    Fields of a row: `question_id`, `question_content`, `starter_code`, `difficulty`, `contest_date`,
    `public_test_cases`, `private_test_cases` and `metadata`.

    Args:
        sandbox: Where programs run.
        first_day: First day of a contest whose problems belong to the suite.
        last_day: The last one.
    """

    name = "livecodebench"

    def __init__(
        self, sandbox: Sandbox | None = None, first_day: datetime.date = FIRST_DAY, last_day: datetime.date = LAST_DAY
    ) -> None:
        self._sandbox = sandbox or Sandbox()
        self._days = (first_day, last_day)

    def load(self, source: str, limit: int | None, seed: int) -> list[Question[Contest]]:
        """Loads problems; see `Suite.load`."""
        return distinct(self._questions(source), limit)

    def grade(self, question: Question[Contest], response: str) -> Grade:
        """Runs a response's program; see `Suite.grade`.

        Raises:
            SandboxUnavailable: Programs can't be isolated here.
        """
        tests = chain.from_iterable(read_tests(text).tests for text in question.payload.fields)
        return grade_program(response, tests, question.payload.function, self._sandbox)

    def close(self) -> None:
        """Nothing to end."""

    def _questions(self, source: str) -> Iterator[Question[Contest]]:
        first, last = self._days
        days = []
        for _, row in read_parts(source, PUBLISHED):
            days.append(row.date("contest_date"))
            if first <= days[-1] <= last:
                yield _read_question(row)
        if not any(first <= day <= last for day in days):
            raise QueryError(f"no problem from {first} to {last}; contests are from {min(days)} to {max(days)}")


def _read_question(row: Row) -> Question[Contest]:
    fields, function = _read_contest(row)
    content = row.text("question_content").strip()
    if function is None:
        prompt = _PROGRAM.format(content=content)
    else:
        prompt = _FUNCTION.format(content=content, starter=row.text("starter_code").rstrip())
    return Question(
        question_id=f"livecodebench-{row.text('question_id')}",
        domain=row.text("difficulty", default="code"),
        prompt=prompt,
        payload=Contest(function, fields),
    )


def _read_contest(row: Row) -> tuple[tuple[str, ...], str | None]:
    names = ("public_test_cases", "private_test_cases")
    fields = tuple(row.text(name) for name in names)
    kinds: set[Kind] = set()
    num_tests = 0
    for name, field in zip(names, fields, strict=True):
        try:
            read = read_tests(field)
        except TestsError as error:
            raise row.wrong(name, str(error)) from error
        kinds |= read.kinds
        num_tests += len(read.tests)
    if not num_tests:
        raise row.wrong(names[0], f"and {names[1]} hold no test")
    if len(kinds) > 1:
        raise row.wrong(names[1], "mixes tests on stdin with tests of a function")
    return fields, _read_function(row) if "functional" in kinds else None


def _read_function(row: Row) -> str:
    text = row.text("metadata")
    try:
        name = json.loads(text)["func_name"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise row.wrong("metadata", f"expected JSON with func_name, found {text[:100]!r}") from error
    if not isinstance(name, str) or not name.isidentifier():
        raise row.wrong("metadata", f"func_name {name!r} names no function")
    return name
