from pathlib import Path

import datasets
import pytest

from evaluation.suites.registry import SUITE_NAMES, open_suite
from evaluation.suites.suite import Published, read_parts
from labeler_jobs.queries.rows import QueryError


@pytest.mark.parametrize("name", SUITE_NAMES)
def test_open_suite_has_its_name(name: str) -> None:
    suite = open_suite(name, allow_unisolated=True)
    assert suite.name == name
    suite.close()


def test_open_suite_unknown_name_lists_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"no suite 'aim'; there are aime, gpqa, livecodebench, reference"):
        open_suite("aim")


def test_reference_questions_are_held_out_and_graded_by_their_answer() -> None:
    suite = open_suite("reference")
    questions = suite.load("", 6, 0)
    assert [question.domain for question in questions] == ["math", "code", "qa"] * 2
    assert suite.grade(questions[0], f"The answer is {questions[0].payload}.").correct
    assert suite.grade(questions[0], f"The answer is {questions[0].payload + 1}.").extracted == str(
        questions[0].payload + 1
    )
    assert suite.grade(questions[0], "I don't know.").reason == "states no answer"


def test_reference_has_no_data_to_name() -> None:
    with pytest.raises(QueryError, match=r"data.jsonl: the reference suite draws its own queries"):
        open_suite("reference").load("data.jsonl", None, 0)


def test_read_parts_dataset_is_read_with_configuration_and_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def load_dataset(name: str, config: str | None, *, split: str, revision: str | None) -> datasets.Dataset:
        asked.append((name, config, split, revision))
        return datasets.Dataset.from_list([{"answer": len(asked)}])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    parts = [Published("org/name@abc", "I", "test", "2025-I"), Published("org/name@abc", "II", "test", "2025-II")]
    found = [(part.label, row.answer("answer")) for part, row in read_parts("", parts)]
    assert found == [("2025-I", "1"), ("2025-II", "2")]
    assert asked == [("org/name", "I", "test", "abc"), ("org/name", "II", "test", "abc")]
