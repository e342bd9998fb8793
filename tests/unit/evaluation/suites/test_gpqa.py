import csv
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from evaluation.suites.gpqa import GpqaSuite
from labeler_jobs.queries.rows import QueryError
from tests.unit.evaluation.suites.files import write_rows


def row(number: int = 0) -> dict[str, Any]:
    """A few of the columns of the published file."""
    return {
        "Pre-Revision Question": "...",
        "Question": f"Which isotope has {number} neutrons?",
        "Correct Answer": "The right one",
        "Incorrect Answer 1": "First wrong one\n",
        "Incorrect Answer 2": "Second wrong one",
        "Incorrect Answer 3": "Third {wrong} one",
        "Explanation": "...",
        "Subdomain": "Chemistry (general)",
        "High-level domain": "Chemistry",
        "Record ID": f"rec{number}",
        "Canary String": "...",
    }


def test_load_question_shows_all_options_and_knows_the_right_letter(tmp_path: Path) -> None:
    [question] = GpqaSuite().load(write_rows(tmp_path / "data.parquet", [row()]), None, 0)
    assert (question.question_id, question.domain) == ("gpqa-rec0", "chemistry")
    options = dict(re.findall(r"^\(([A-D])\) (.*)$", question.prompt, re.MULTILINE))
    assert sorted(options.values()) == ["First wrong one", "Second wrong one", "The right one", "Third {wrong} one"]
    assert options[question.payload] == "The right one"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_load_published_csv_is_the_same_questions(tmp_path: Path, encoding: str) -> None:
    rows = [row(number) | {"Correct Answer": f'{number},5 "µm"\nor less'} for number in range(5)]
    with (tmp_path / "gpqa_diamond.csv").open("w", encoding=encoding, newline="") as lines:
        written = csv.DictWriter(lines, list(rows[0]))
        written.writeheader()
        written.writerows(rows)
    questions = GpqaSuite().load(str(tmp_path / "gpqa_diamond.csv"), None, 3)
    assert questions == GpqaSuite().load(write_rows(tmp_path / "data.jsonl", rows), None, 3)


def test_load_csv_whose_column_is_empty_names_row_and_field(tmp_path: Path) -> None:
    file = tmp_path / "gpqa.csv"
    file.write_text('Question,Correct Answer,Incorrect Answer 1\n"a\nb",,x\n', encoding="utf-8-sig")
    with pytest.raises(QueryError, match=r"gpqa.csv, row 1 \(line 2\): field 'Correct Answer' expected text"):
        GpqaSuite().load(str(file), None, 0)


def test_load_same_seed_shuffles_a_question_alike_whatever_else_is_loaded(tmp_path: Path) -> None:
    rows = [row(number) for number in range(200)]
    suite = GpqaSuite()
    everything = suite.load(write_rows(tmp_path / "all.jsonl", rows), None, 7)
    some = suite.load(write_rows(tmp_path / "some.jsonl", rows[150:0:-1]), 100, 7)
    by_id = {question.question_id: question for question in everything}
    assert all(by_id[question.question_id] == question for question in some)
    other_seed = suite.load(str(tmp_path / "all.jsonl"), None, 8)
    assert sum(a.payload != b.payload for a, b in zip(everything, other_seed, strict=True)) > 100
    # No letter is favoured.
    assert min(Counter(question.payload for question in everything).values()) > 30


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"Correct Answer": None}, "data.jsonl, row 1: field 'Correct Answer' expected text, found null"),
        ({"Incorrect Answer 2": ""}, "data.jsonl, row 1: field 'Incorrect Answer 2' is empty"),
        ({"Incorrect Answer 3": "The right one"}, "field 'Correct Answer' is an incorrect answer as well"),
    ],
)
def test_load_wrong_row_names_file_field_and_row(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(QueryError) as error:
        GpqaSuite().load(write_rows(tmp_path / "data.jsonl", [{**row(), **change}]), None, 0)
    assert message in str(error.value)


def test_grade_compares_the_letter(tmp_path: Path) -> None:
    suite = GpqaSuite()
    [question] = suite.load(write_rows(tmp_path / "data.jsonl", [row()]), None, 0)
    wrong = next(letter for letter in "ABCD" if letter != question.payload)
    assert suite.grade(question, f"The answer is ({question.payload}).").correct
    assert not suite.grade(question, f"\\boxed{{{wrong}}}").correct
