from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from evaluation.suites.aime import PUBLISHED, AimeSuite
from labeler_jobs.queries.rows import QueryError
from tests.unit.evaluation.suites.files import write_rows

# The three schemas under which the problems are published.
H4_2024 = {
    "id": 60, "problem": "Find $x$.", "solution": "...", "answer": "204", "url": "https://…", "year": "2024",
}  # fmt: skip
MAXWELL_2024 = {"ID": "2024-I-1", "Problem": "Find $x$.", "Solution": "...", "Answer": 204}
OPENCOMPASS_2025 = {"question": "Find $x$ with \\frac{1}{x}=2.", "answer": "336^\\circ"}


@pytest.fixture
def suite() -> Iterator[AimeSuite]:
    suite = AimeSuite()
    yield suite
    suite.close()


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".parquet"])
@pytest.mark.parametrize(
    ("row", "question_id", "answer"),
    [(H4_2024, "aime-60", 204), (MAXWELL_2024, "aime-2024-I-1", 204), (OPENCOMPASS_2025, "aime-1", 336)],
    ids=["H4", "Maxwell-Jia", "opencompass"],
)
def test_load_published_schema_gives_problem_and_answer(
    tmp_path: Path, suite: AimeSuite, row: dict[str, Any], question_id: str, answer: int, suffix: str
) -> None:
    [question] = suite.load(write_rows(tmp_path / f"data{suffix}", [row]), None, 0)
    assert (question.question_id, question.payload, question.domain) == (question_id, answer, "math")
    assert question.prompt.startswith("Find $x$")
    assert question.prompt.endswith("put the final answer in \\boxed{}.")


def test_load_limit_takes_the_first_problems(tmp_path: Path, suite: AimeSuite) -> None:
    path = write_rows(tmp_path / "data.jsonl", [{**H4_2024, "id": number} for number in range(5)])
    assert [question.question_id for question in suite.load(path, 2, 0)] == ["aime-0", "aime-1"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"problem": None}, "data.jsonl, row 2: field 'problem' expected text, found null"),
        ({"problem": " "}, "data.jsonl, row 2: field 'problem' is empty"),
        ({"answer": "1000"}, "data.jsonl, row 2: field 'answer' expected a whole number from 0 to 999, found '1000'"),
        ({"answer": "\\frac12"}, "row 2: field 'answer' expected a whole number from 0 to 999"),
        ({"answer": 2.5}, "row 2: field 'answer' expected text or a whole number"),
        ({"id": 60}, "question 'aime-60' is there twice"),
    ],
)
def test_load_wrong_row_names_file_field_and_row(
    tmp_path: Path, suite: AimeSuite, change: dict[str, Any], message: str
) -> None:
    path = write_rows(tmp_path / "data.jsonl", [H4_2024, {**H4_2024, "id": 61, **change}])
    with pytest.raises(QueryError) as error:
        suite.load(path, None, 0)
    assert message in str(error.value)


def test_load_missing_field_names_it(tmp_path: Path, suite: AimeSuite) -> None:
    path = write_rows(tmp_path / "data.json", [{"problem": "Find $x$."}])
    with pytest.raises(QueryError, match=r"data.json, row 1: field 'answer or Answer' is missing"):
        suite.load(path, None, 0)


@pytest.mark.parametrize("name", ["data.jsonl", "data.parquet"])
def test_load_damaged_file_names_it(tmp_path: Path, suite: AimeSuite, name: str) -> None:
    (tmp_path / name).write_bytes(b'{"problem": ')
    with pytest.raises(QueryError, match=name):
        suite.load(str(tmp_path / name), None, 0)


def test_grade_reads_the_box(suite: AimeSuite, tmp_path: Path) -> None:
    [question] = suite.load(write_rows(tmp_path / "data.jsonl", [H4_2024]), None, 0)
    assert suite.grade(question, "<think>\\boxed{3}</think>So \\boxed{204}.").correct
    assert not suite.grade(question, "\\boxed{205}").correct


def test_published_parts_are_pinned() -> None:
    assert all(len(part.dataset.partition("@")[2]) == 40 for part in PUBLISHED)
    assert len({part.label for part in PUBLISHED}) == len(PUBLISHED)
