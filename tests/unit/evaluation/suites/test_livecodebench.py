import base64
import datetime
import json
import pickle
import zlib
from pathlib import Path
from typing import Any

import pytest

from evaluation.suites.contest_tests import TestsError, read_tests
from evaluation.suites.livecodebench import LiveCodeBenchSuite
from labeler_jobs.queries.rows import QueryError
from tests.unit.evaluation.graders.test_sandbox import isolating
from tests.unit.evaluation.suites.files import write_rows

STDIN_TESTS = [{"input": "1 2\n", "output": "3\n", "testtype": "stdin"}]
PRIVATE_STDIN_TESTS = [{"input": f"{n} {n}\n", "output": f"{2 * n}\n", "testtype": "stdin"} for n in range(3)]
FUNCTION_TESTS = [{"input": "[1, 2]\n3", "output": "[3, 6]", "testtype": "functional"}]


def packed(content: object) -> str:
    return base64.b64encode(zlib.compress(pickle.dumps(content))).decode()


def row(**changes: Any) -> dict[str, Any]:
    """A row with all columns of the published dataset."""
    return {
        "question_title": "Sums",
        "question_content": "Add the numbers in {braces}.",
        "platform": "atcoder",
        "question_id": "abc365_a",
        "contest_id": "abc365",
        "contest_date": "2024-08-03T00:00:00",
        "starter_code": "",
        "difficulty": "easy",
        "public_test_cases": json.dumps(STDIN_TESTS),
        "private_test_cases": packed(json.dumps(PRIVATE_STDIN_TESTS)),
        "metadata": "{}",
        **changes,
    }


FUNCTION_ROW = row(
    question_id="3487",
    platform="leetcode",
    starter_code="class Solution:\n    def scale(self, values: List[int], by: int) -> List[int]:\n        ",
    public_test_cases=json.dumps(FUNCTION_TESTS),
    private_test_cases=json.dumps(FUNCTION_TESTS),
    metadata=json.dumps({"func_name": "scale"}),
)


def load_error(path: str) -> str:
    with pytest.raises(QueryError) as error:
        LiveCodeBenchSuite().load(path, None, 0)
    return str(error.value)


def test_load_program_and_function_are_told_apart(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "data.parquet", [row(), FUNCTION_ROW])
    program, function = LiveCodeBenchSuite().load(path, None, 0)
    assert (program.question_id, program.domain) == ("livecodebench-abc365_a", "easy")
    assert program.payload.function is None
    assert "Add the numbers in {braces}." in program.prompt
    assert "stdin" in program.prompt
    assert function.payload.function == "scale"
    assert "def scale(self, values: List[int], by: int)" in function.prompt


def test_load_keeps_contests_from_august_2024_to_january_2025(tmp_path: Path) -> None:
    days = ["2024-07-31T23:59:59", "2024-08-01T00:00:00", "2025-01-31T12:00:00", "2025-02-01T00:00:00"]
    rows = [row(question_id=str(number), contest_date=day) for number, day in enumerate(days)]
    kept = LiveCodeBenchSuite().load(write_rows(tmp_path / "data.jsonl", rows), None, 0)
    assert [question.question_id for question in kept] == ["livecodebench-1", "livecodebench-2"]


def test_load_reads_timestamp_columns(tmp_path: Path) -> None:
    rows = [row(contest_date=datetime.datetime(2024, 9, 1)), row(contest_date=datetime.datetime(2024, 1, 1))]
    assert len(LiveCodeBenchSuite().load(write_rows(tmp_path / "data.parquet", rows), None, 0)) == 1


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("text", ["[]", json.dumps(STDIN_TESTS * 5000)], ids=["short", "long"])
def test_read_tests_packed_text_equals_plain_json(text: str, protocol: int) -> None:
    content = base64.b64encode(zlib.compress(pickle.dumps(text, protocol))).decode()
    assert read_tests(content) == read_tests(text)


class Hostile:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("/tmp/trivium-unpickled"),))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (packed(Hostile()), "a pickle with the instruction"),
        (packed(["a list"]), "a pickle with the instruction EMPTY_LIST, which isn't run"),
        (packed(STDIN_TESTS), "which isn't run"),
        (base64.b64encode(zlib.compress(b"no pickle")).decode(), "no pickle of a text"),
        (base64.b64encode(zlib.compress(pickle.dumps("[]"))[:-6]).decode(), "cut off"),
        (base64.b64encode(b"not compressed").decode(), "neither JSON nor base64 of zlib"),
        ("?", "neither JSON nor base64 of zlib"),
        ("[1", "aren't JSON"),
        (packed('{"a": 1}'), "expected a list of tests, found dict"),
        ('[{"input": "1"}]', "test 1 has no text as its input and output"),
        ('[{"input": "1", "output": "1", "testtype": "file"}]', "testtype 'file' is neither"),
    ],
)
def test_read_tests_anything_else_is_refused_and_never_run(content: str, message: str) -> None:
    with pytest.raises(TestsError) as error:
        read_tests(content)
    assert message in str(error.value)
    assert not Path("/tmp/trivium-unpickled").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"private_test_cases": "?"}, "row 1: field 'private_test_cases' the tests are neither JSON nor base64"),
        ({"private_test_cases": packed(Hostile())}, "field 'private_test_cases' the tests are a pickle"),
        (
            {"public_test_cases": "[]", "private_test_cases": "[]"},
            "'public_test_cases' and private_test_cases hold no",
        ),
        ({"private_test_cases": json.dumps(FUNCTION_TESTS)}, "mixes tests on stdin with tests of a function"),
        *(
            (
                {name: json.dumps([{"input": "1", "output": output, "testtype": "functional"}])},
                f"row 1: field '{name}' the tests can't be run: test 1: output isn't JSON",
            )
            for name in ("public_test_cases", "private_test_cases")
            for output in ("", "None", "[1, 2", "'a'", "1 2", "True", "[" * 3000 + "]" * 3000)
        ),
        (
            {"public_test_cases": json.dumps([{"input": "1\n[2", "output": "1", "testtype": "functional"}])},
            "field 'public_test_cases' the tests can't be run: test 1: input isn't JSON",
        ),
        (
            {"public_test_cases": json.dumps([{"input": "\ud800", "output": "1", "testtype": "stdin"}])},
            "field 'public_test_cases' the tests can't be run: test 1: input holds half a character",
        ),
        ({"public_test_cases": "[" * 100_000}, "field 'public_test_cases' the tests aren't JSON"),
        ({"contest_date": "last summer"}, "row 1: field 'contest_date' expected a date, found 'last summer'"),
        ({"question_content": ""}, "row 1: field 'question_content' is empty"),
    ],
)
def test_load_wrong_row_names_file_field_and_row(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    told = load_error(write_rows(tmp_path / "data.jsonl", [row(**change)]))
    assert "data.jsonl" in told
    assert message in told


@pytest.mark.parametrize("metadata", ["{}", "null", "?", '{"func_name": "a.b"}', '{"func_name": 3}'])
def test_load_function_without_its_name_is_refused(tmp_path: Path, metadata: str) -> None:
    told = load_error(write_rows(tmp_path / "data.jsonl", [{**FUNCTION_ROW, "metadata": metadata}]))
    assert "data.jsonl, row 1: field 'metadata'" in told


def test_load_no_contest_in_range_says_so(tmp_path: Path) -> None:
    told = load_error(write_rows(tmp_path / "data.jsonl", [row(contest_date="2023-01-01")]))
    assert told == "no problem from 2024-08-01 to 2025-01-31; contests are from 2023-01-01 to 2023-01-01"


@isolating
def test_grade_runs_public_and_private_tests(tmp_path: Path) -> None:
    suite = LiveCodeBenchSuite()
    program, function = suite.load(write_rows(tmp_path / "data.jsonl", [row(), FUNCTION_ROW]), None, 0)
    good = "```python\nprint(sum(map(int, input().split())))\n```"
    lucky = "```python\nprint(3)\n```"
    assert suite.grade(program, good).reason == "passed 4 tests"
    assert suite.grade(program, lucky).reason == "test 2: wrong answer '3'"
    scaled = (
        "```python\nclass Solution:\n    def scale(self, v: List[int], by):\n        return [by * x for x in v]\n```"
    )
    assert suite.grade(function, scaled).reason == "passed 2 tests"


@pytest.mark.parametrize(
    ("first", "last", "ids"),
    [
        ("2023-05-07", "2023-05-07", ["b"]),
        ("2023-01-01", "2023-12-31", ["a", "b"]),
        ("2023-05-08", "2025-01-31", ["c"]),
    ],
)
def test_load_days_may_be_others_than_the_papers(tmp_path: Path, first: str, last: str, ids: list[str]) -> None:
    days = {"a": "2023-05-06", "b": "2023-05-07T22:00:00", "c": "2024-08-03"}
    rows = [row(question_id=name, contest_date=day) for name, day in days.items()]
    suite = LiveCodeBenchSuite(None, datetime.date.fromisoformat(first), datetime.date.fromisoformat(last))
    found = suite.load(write_rows(tmp_path / "data.jsonl", rows), None, 0)
    assert [question.question_id for question in found] == [f"livecodebench-{name}" for name in ids]
