"""What a row of one's own questions may say, and what is refused before anyone is asked."""

import json
from typing import Any

import pytest

from evaluation.suites.own.rows import OwnQuestion, check_grader, read_question
from labeler_jobs.queries.rows import QueryError, Row

TESTS = [{"input": "1 2", "output": "3"}]


def read(of_file: str | None = None, /, **fields: Any) -> OwnQuestion:
    return read_question(Row("q.jsonl, row 7", 7, fields), None if of_file is None else check_grader(of_file))


@pytest.mark.parametrize(
    ("fields", "answer"),
    [
        ({"grader": "number", "answer": 100}, "100"),
        ({"grader": "number", "answer": 0.5}, "0.5"),
        ({"grader": "number", "answer": 1e-5}, "0.00001"),
        ({"grader": "number", "answer": 2.0}, "2.0"),
        ({"grader": "number", "answer": "\\pi"}, "\\pi"),
        # As spreadsheets and pandas write small and large numbers.
        ({"grader": "number", "answer": "1e-05"}, "0.00001"),
        ({"grader": "number", "answer": "3E8"}, "300000000"),
        ({"grader": "number", "answer": "-1.5e+3"}, "-1500"),
        ({"grader": "number", "answer": "6.02e123"}, "6.02 \\times 10^{123}"),
        ({"grader": "number", "answer": 1e-30}, "1 \\times 10^{-30}"),
        ({"grader": "choice", "answer": "b"}, "B"),
        ({"grader": "choice", "answer": "(C)", "choices": ["8", "9", "11"]}, "C"),
        ({"grader": "choice", "answer": 11, "choices": [8, 9, 11]}, "C"),
        ({"grader": "choice", "answer": "nine", "choices": '["eight", "nine"]'}, "B"),
        ({"grader": "exact", "answer": "Cafe\u0301 "}, "Café"),
        ({"grader": "regex", "answer": r"(?i)\blima\b"}, r"(?i)\blima\b"),
        ({"grader": "verifier", "answer": "It boils."}, "It boils."),
    ],
)
def test_read_question_answer_is_read_as_its_grader_needs_it(fields: dict[str, Any], answer: str) -> None:
    assert read(question="q?", **fields).answer == answer


def test_read_question_says_how_to_answer_and_a_prompt_stays_as_it_is() -> None:
    asked = read("choice", question="Which is prime? ", choices=["8", "9", "11"], answer="C")
    assert asked.prompt.startswith("Which is prime?\n\n(A) 8\n(B) 9\n(C) 11\n\nReason step by step")
    assert "\\boxed{}" in asked.prompt
    assert "last line" in read("exact", question="q?", answer="x").prompt
    assert read("regex", question="q?", answer="x").prompt == "q?"
    assert read("number", prompt=" As it\nis. ", answer=1).prompt == " As it\nis. "
    assert "stdin" in read("program", question="Add.", tests=TESTS).prompt
    assert "function add" in read("program", question="Add.", function="add", tests=TESTS_OF_ADD).prompt


TESTS_OF_ADD = [{"input": "1\n2", "output": 3}, {"input": [1, 2], "output": [3]}]


def test_read_question_tests_of_a_function_may_be_values() -> None:
    asked = read("program", question="Add.", function="add", tests=TESTS_OF_ADD)
    written = [(test["input"], test["output"], test["testtype"]) for test in json.loads(asked.tests)]
    assert written == [("1\n2", "3", "functional"), ("[1, 2]", "[3]", "functional")]


def test_read_question_id_and_domain_have_defaults() -> None:
    asked = read("number", question="q?", answer=1)
    assert (asked.row_id, asked.domain) == ("7", "own")
    asked = read("number", question="q?", answer=1, id="x", domain="law")
    assert (asked.row_id, asked.domain) == ("x", "law")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        # Graders that are unknown, missing, or two at once.
        ({"answer": 1}, "field 'grader' is missing"),
        ({"answer": 1, "grader": None}, "field 'grader' names none of choice, number, exact, regex, program, verif"),
        ({"answer": 1, "grader": "numbr"}, "field 'grader' is 'numbr', which is none of choice, number"),
        ({"answer": 1, "grader": "Number"}, "field 'grader' is 'Number', which is none of"),
        ({"answer": 1, "grader": ["number"]}, "field 'grader' expected text, found list"),
        ({"answer": "A", "grader": "number", "choices": ["1", "2"]}, "field 'choices' is for the grader 'choice'"),
        ({"answer": "A", "grader": "choice", "tests": TESTS}, "field 'tests' is for the grader 'program'"),
        ({"answer": "A", "grader": "exact", "function": "f"}, "field 'function' is for the grader 'program'"),
        # Answers.
        ({"grader": "number"}, "field 'answer' is missing"),
        ({"grader": "number", "answer": ""}, "field 'answer' is empty"),
        ({"grader": "number", "answer": True}, "field 'answer' expected text or a whole number, found bool"),
        ({"grader": "number", "answer": float("nan")}, "field 'answer' is nan"),
        ({"grader": "number", "answer": float("inf")}, "field 'answer' is inf"),
        ({"grader": "number", "answer": "2023-05-01"}, "field 'answer' is '2023-05-01', which isn't one number"),
        ({"grader": "number", "answer": "12:30"}, "field 'answer' is '12:30', which isn't one number"),
        ({"grader": "number", "answer": "1.5.2020"}, "field 'answer' is '1.5.2020', which isn't one number"),
        ({"grader": "number", "answer": "Paris"}, "field 'answer' is 'Paris': expected a number or LaTeX"),
        ({"grader": "choice", "answer": "K"}, "field 'answer' is 'K': expected one of A, B, C, D"),
        ({"grader": "choice", "answer": "D", "choices": ["a", "b", "c"]}, "expected one of A, B, C or the text of"),
        ({"grader": "choice", "answer": 2, "choices": ["a", "b", "c"]}, "field 'answer' is '2': expected one of"),
        ({"grader": "choice", "answer": "B", "choices": ["B", "A"]}, "the letter of one option and the text of"),
        ({"grader": "choice", "answer": "A", "choices": ["x"]}, "field 'choices' expected a list of 2 to 10"),
        ({"grader": "choice", "answer": "A", "choices": list("abcdefghijk")}, "expected a list of 2 to 10"),
        ({"grader": "choice", "answer": "A", "choices": ["x", "x"]}, "field 'choices' hold 'x' twice"),
        ({"grader": "choice", "answer": "A", "choices": ["x", None]}, "field 'choices': field '2' expected text"),
        ({"grader": "choice", "answer": "A", "choices": "x;y"}, "field 'choices' expected JSON"),
        ({"grader": "regex", "answer": "(a"}, "field 'answer' is no regular expression"),
        ({"grader": "regex", "answer": "a*"}, r"field 'answer' is 'a\*', which any response matches"),
        # Tests.
        ({"grader": "program"}, "field 'tests' is missing"),
        ({"grader": "program", "tests": []}, "field 'tests' expected a list of objects"),
        ({"grader": "program", "tests": "[{"}, "field 'tests' expected JSON"),
        ({"grader": "program", "tests": [{"input": "1"}]}, "field 'tests' test 1: expected an object with"),
        ({"grader": "program", "tests": [{"input": [1], "output": "1"}]}, "test 1: expected text as input"),
        ({"grader": "program", "tests": [*TESTS, {"input": "\ud83d", "output": ""}]}, "test 2: input holds half"),
        ({"grader": "program", "tests": TESTS, "function": "f"}, "test 1: input isn't JSON"),
        ({"grader": "program", "tests": TESTS, "function": "f()"}, "field 'function' is 'f\\(\\)', which names no"),
    ],
)
def test_read_question_wrong_row_names_place_and_field(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(QueryError, match=rf"^q\.jsonl, row 7.*{message}"):
        read(question="q?", **fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "field 'question or prompt' is missing"),
        ({"Question": "q"}, "field 'Question' is unknown: did you mean 'question'"),
        ({"questions": "q"}, "field 'questions' is unknown: did you mean 'question'"),
        ({"question": "q", " ID ": 3}, "field ' ID ' is unknown: did you mean 'id'"),
        ({"question": "q", "domains": "law"}, "field 'domains' is unknown: did you mean 'domain'"),
        ({"question": " "}, "field 'question' is empty"),
        ({"question": 1.5}, "field 'question' expected text, found float"),
        ({"question": "q", "prompt": "p"}, "field 'prompt' and field 'question' are both there"),
        ({"question": "\udc00"}, "field 'question' holds half a character"),
    ],
)
def test_read_question_without_one_question_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(QueryError, match=rf"^q\.jsonl, row 7.*{message}"):
        read(answer=1, grader="number", **fields)


def test_read_question_grader_of_the_file_is_for_rows_without_one_and_contradicts_none() -> None:
    assert read("number", question="q?", answer=1).grader == "number"
    assert read("number", question="q?", answer=1, grader="number").grader == "number"
    with pytest.raises(QueryError, match="field 'grader' is 'exact', but --grader says 'number': give one of them"):
        read("number", question="q?", answer=1, grader="exact")


def test_read_question_misspelt_grader_is_no_row_without_one() -> None:
    with pytest.raises(QueryError, match="field 'graeder' is unknown: did you mean 'grader'"):
        read("number", question="q?", answer=1, graeder="exact")


def test_read_question_other_columns_are_welcome() -> None:
    read("number", question="q?", answer=1, source="web", explanation="…", Answer="1 as well", functional=True)


def test_check_grader_unknown_name_lists_those_there_are() -> None:
    with pytest.raises(QueryError, match=r"--grader: 'exakt' is none of choice, number"):
        check_grader("exakt")
