"""A file of one's own questions, graded by each of its graders."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from evaluation.graders.sandbox import Sandbox
from evaluation.suites.own.suite import OwnSuite
from evaluation.suites.registry import SUITE_NAMES, is_own, open_own
from labeler_jobs.queries.rows import QueryError
from labeler_jobs.verifiers.names import VerifierChoiceError
from labeler_jobs.verifiers.verifier import VerifierUnreachable
from tests.unit.evaluation.suites.files import write_rows
from tests.unit.labeler_jobs.verifiers.misbehaving_server import Reply, answered, serve

TESTS = [{"input": "1 2", "output": "3"}]
ROWS: list[dict[str, Any]] = [
    {"question": "Boils at?", "answer": 100, "grader": "number", "id": "water"},
    {"question": "Prime?", "answer": "C", "grader": "choice", "choices": ["8", "9", "11"], "domain": "maths"},
    {"question": "Capital of Peru?", "answer": "Lima", "grader": "exact"},
    {"question": "Say lima.", "answer": r"(?i)\blima\b", "grader": "regex"},
]
RIGHT = ["It is \\boxed{100}.", "So C.", "The capital is:\nLima", "It's LIMA!"]
WRONG = ["It is \\boxed{1000}.", "So A.", "Lima is the capital.", "Limasol"]


class Scripted:
    """Answers every prompt alike."""

    def __init__(self, answer: str) -> None:
        self.answer = answer
        self.prompts: list[str] = []

    def generate(self, prompts: Sequence[str]) -> list[str]:
        self.prompts += prompts
        return [self.answer] * len(prompts)


def nobody() -> Scripted:
    raise AssertionError("no row asks for it")


def suite_of(path: Path, grader: Any = None, judge: Scripted | None = None) -> OwnSuite:
    return OwnSuite(
        path,
        grader,
        taken=SUITE_NAMES,
        open_sandbox=lambda: Sandbox(allow_unisolated=True),
        open_judge=lambda: judge or nobody(),
    )


def write(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    if path.suffix != ".csv":
        write_rows(path, rows)
        return path
    names = sorted({name for row in rows for name in row})
    with path.open("w", encoding="utf-8-sig", newline="") as lines:
        cells = csv.writer(lines)
        cells.writerow(names)
        for row in rows:
            values = ["" if row.get(name) is None else row[name] for name in names]
            cells.writerow([json.dumps(value) if isinstance(value, list) else value for value in values])
    return path


def as_columns(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows as a table holds them: every row has every column, and a column has one type."""
    names = {name for row in rows for name in row}
    return [{name: row.get(name) for name in names} | {"answer": str(row["answer"])} for row in rows]


@pytest.mark.parametrize("name", ["mine.jsonl", "mine.json", "mine.csv", "mine.parquet"])
def test_own_file_of_every_format_is_asked_and_graded_alike(tmp_path: Path, name: str) -> None:
    suite = suite_of(write(tmp_path / name, as_columns(ROWS)))
    try:
        questions = suite.load("", None, 0)
        assert [question.question_id for question in questions] == ["mine-water", "mine-2", "mine-3", "mine-4"]
        assert [question.domain for question in questions] == ["own", "maths", "own", "own"]
        graded = [suite.grade(question, text).correct for question, text in zip(questions, RIGHT, strict=True)]
        assert graded == [True] * 4
        graded = [suite.grade(question, text).correct for question, text in zip(questions, WRONG, strict=True)]
        assert graded == [False] * 4
    finally:
        suite.close()


def test_own_choice_may_have_more_than_four_options(tmp_path: Path) -> None:
    rows = [{"question": "Largest?", "choices": [1, 2, 3, 4, 5, 6], "answer": 6, "grader": "choice"}]
    suite = suite_of(write(tmp_path / "mine.jsonl", rows))
    [question] = suite.load("", None, 0)
    for right in ("\\boxed{F}", "The answer is (F).", "So F.", "F, because it is 6."):
        assert suite.grade(question, f"1 is small.\n\n{right}").correct, right
    for wrong in ("\\boxed{E}", "The answer is (A).", "\\boxed{G}", "F or E", ""):
        assert not suite.grade(question, wrong).correct, wrong


def test_own_program_passes_its_tests_or_fails(tmp_path: Path) -> None:
    rows = [
        {"question": "Add.", "tests": TESTS, "grader": "program"},
        {"question": "Add.", "tests": [{"input": "1\n2", "output": 3}], "function": "add", "grader": "program"},
    ]
    suite = suite_of(write(tmp_path / "mine.jsonl", rows))
    program, function = suite.load("", None, 0)
    assert suite.grade(program, "```python\nprint(sum(map(int, input().split())))\n```").correct
    assert not suite.grade(program, "```python\nprint(4)\n```").correct
    assert suite.grade(function, "```python\ndef add(a, b):\n    return a + b\n```").correct
    assert suite.grade(function, "Just add them.").reason == "no fenced block of Python"


def test_own_verifier_is_shown_question_answer_and_reply(tmp_path: Path) -> None:
    judge = Scripted('Same. {"reason": "same", "correct": true}')
    suite = suite_of(
        write(tmp_path / "m.jsonl", [{"question": "Why?", "answer": "Heat.", "grader": "verifier"}]), judge=judge
    )
    [question] = suite.load("", None, 0)
    assert suite.grade(question, "<think>cold?</think>Because of the heat.").correct
    [prompt] = judge.prompts
    assert all(part in prompt for part in ("Why?", "Heat.", "Because of the heat."))
    assert "cold?" not in prompt
    judge.answer = '{"correct": false}'
    assert not suite.grade(question, "Cold.").correct
    judge.answer = "I can't tell."
    assert suite.grade(question, "Cold.").reason == "the verifier's verdict can't be read"
    assert suite.grade(question, "<think>endless</think>").reason == "says nothing"
    assert len(judge.prompts) == 3


def test_own_verifier_that_never_gives_a_readable_verdict_ends_the_run_and_is_shown(tmp_path: Path) -> None:
    judge = Scripted("As a language model, I\x1b[2J may not judge.")
    suite = suite_of(
        write(tmp_path / "m.jsonl", [{"question": "Why?", "answer": "Heat.", "grader": "verifier"}]), judge=judge
    )
    [question] = suite.load("", None, 0)
    for _ in range(7):
        assert not suite.grade(question, "Cold.").correct
    with pytest.raises(VerifierUnreachable, match=r"first 8 verdicts can be read.*I\\x1b\[2J may not judge"):
        suite.grade(question, "Cold.")


def test_own_verifier_is_reached_before_the_first_question(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "m.jsonl", [{"question": "Why?", "answer": "Heat.", "grader": "verifier"}])
    with pytest.raises(VerifierChoiceError, match="--verifier: rows are graded by a verifier; name its URL"):
        open_own(str(path)).load("", None, 0)
    with pytest.raises(VerifierChoiceError, match="TRIVIUM_VERIFIER_MODEL: Field required"):
        open_own(str(path), verifier="http://127.0.0.1:1/v1").load("", None, 0)
    monkeypatch.setenv("TRIVIUM_VERIFIER_MODEL", "judge")
    with pytest.raises(VerifierUnreachable, match="can't be reached: ConnectError"):
        open_own(str(path), verifier="http://127.0.0.1:1/v1").load("", None, 0)
    with serve(lambda number, prompt: answered("yes")) as server:
        assert len(open_own(str(path), verifier=server.base_url).load("", None, 0)) == 1
    with (
        serve(lambda number, prompt: Reply(status=404)) as server,
        pytest.raises(VerifierUnreachable, match="refused the request: HTTP 404"),
    ):
        open_own(str(path), verifier=server.base_url).load("", None, 0)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([*ROWS, {"question": "q?"}], r"mine\.jsonl, row 5: field 'grader' is missing"),
        ([*ROWS, ROWS[0]], r"mine\.jsonl, row 5: field 'id' is 'water', as in an earlier row"),
        ([{"question": "q?", "answer": "\\foo{1", "grader": "number"}], r"row 1: field 'answer' is .* be read"),
    ],
)
def test_own_wrong_file_is_refused_when_it_is_loaded(tmp_path: Path, rows: list[Any], message: str) -> None:
    suite = suite_of(write(tmp_path / "mine.jsonl", rows))
    with pytest.raises(QueryError, match=message):
        suite.load("", None, 0)
    suite.close()


def test_own_limit_opens_only_what_its_rows_need(tmp_path: Path) -> None:
    rows = [ROWS[2], {"question": "Why?", "answer": "Heat.", "grader": "verifier"}]
    assert len(suite_of(write(tmp_path / "mine.jsonl", rows)).load("", 1, 0)) == 1


def test_own_changed_answer_or_grader_changes_what_a_question_is_graded_by(tmp_path: Path) -> None:
    def graded_by(**change: Any) -> str:
        [question] = suite_of(write(tmp_path / "mine.jsonl", [ROWS[2] | change])).load("", None, 0)
        return question.graded_by

    assert len({graded_by(), graded_by(answer="Quito"), graded_by(grader="regex")}) == 3
    assert graded_by() == graded_by(domain="other")


def test_own_suite_takes_no_name_of_another_suite(tmp_path: Path) -> None:
    assert suite_of(tmp_path / "aime.jsonl").name == "own-aime"
    assert suite_of(tmp_path / "my questions (2).csv").name == "my-questions-2-"


def test_is_own_tells_files_from_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("aime").touch()
    Path("questions").touch()
    assert [name for name in ("aime", "questions", "q.csv", "./x", "mmlu") if is_own(name)] == [
        "questions", "q.csv", "./x",
    ]  # fmt: skip
