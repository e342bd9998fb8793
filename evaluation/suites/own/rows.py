"""Reads a user's own questions: one row, one question, with the grader that it names.

Owns the fields, what each grader needs, and how a question is put; whatever could fail a row in the middle of a run
is refused here, by file, row and field.
"""

from __future__ import annotations

import difflib
import json
import re
import unicodedata
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal, get_args

import regex

from evaluation.graders.choice_letter import LETTERS as FOUR_LETTERS
from evaluation.suites.contest_tests import ContestTests, TestsError, read_tests
from labeler_jobs.queries.rows import QueryError, Row

GraderName = Literal["choice", "number", "exact", "regex", "program", "verifier"]
GRADER_NAMES: tuple[GraderName, ...] = get_args(GraderName)

_BOXED = "Reason step by step, and put the {what} in \\boxed{{}}."
_EXPONENT = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)[eE][+-]?\d{1,6}")
_DATE = re.compile(r"\d{1,4}([-/.])\d{1,2}\1\d{1,4}|\d{1,2}(?::\d{2}){1,2}")
_MOST_ZEROS = 20
_INSTRUCTIONS: dict[GraderName, str] = {
    "choice": _BOXED.format(what="letter of the right option"),
    "number": _BOXED.format(what="final answer"),
    "exact": "Reason step by step, and give the answer alone on the last line.",
    "regex": "",
    "program": "Reason step by step, and give the whole program in one fenced block of Python at the end.",
    "verifier": "",
}
# A field that another grader reads shows that the row was meant for that one.
LETTERS = "ABCDEFGHIJ"
"""Options that a choice may have."""
_FIELDS = ("question", "prompt", "answer", "grader", "choices", "tests", "function", "id", "domain")
_FIELDS_OF: dict[str, GraderName] = {"choices": "choice", "tests": "program", "function": "program"}


@dataclass(frozen=True)
class OwnQuestion:
    """What one row asks.

    Attributes:
        row_id: Tells the row from the others.
        domain: What figures are broken down by.
        prompt: The user's message.
        grader: Who grades the response.
        answer: A letter, a number, a text, a pattern or a reference answer; empty for a program.
        letters: The options that are offered, from A on; empty where there are none.
        tests: The program's tests, as JSON that `contest_tests` reads; else empty.
        function: The function that tests call; None for a program on stdin.
        place: The row's file and number, for errors.
    """

    row_id: str
    domain: str
    prompt: str
    grader: GraderName
    answer: str = ""
    letters: str = ""
    tests: str = ""
    function: str | None = None
    place: str = ""


def read_question(row: Row, grader: GraderName | None) -> OwnQuestion:
    """Reads a row.

    Args:
        row: Its fields are `question` or `prompt`, `answer`, `grader`, `choices`, `tests`, `function`, `id` and
            `domain`.
        grader: Grades rows that name none.

    Raises:
        QueryError: A field is missing or wrong, or the row is meant for two graders.
    """
    _check_names(row)
    name = _grader(row, grader)
    choices = _choices(row) if name == "choice" else []
    function = _function(row) if name == "program" else None
    answer = _answer(row, name, choices)
    return OwnQuestion(
        row_id=row.text("id", default=str(row.number)),
        domain=row.text("domain", default="own"),
        prompt=_prompt(row, name, choices, function),
        grader=name,
        answer=answer,
        letters=_offered(answer, choices) if name == "choice" else "",
        tests=_tests(row, function) if name == "program" else "",
        function=function,
        place=row.place,
    )


def _check_names(row: Row) -> None:
    """Other columns are welcome, unless one is a field of this file misspelt: it would be passed over in silence."""
    for name in row.names:
        close = difflib.get_close_matches(name.strip().lower(), _FIELDS, n=1, cutoff=0.9)
        if name not in _FIELDS and close and not row.has(close[0]):
            raise row.wrong(name, f"is unknown: did you mean {close[0]!r}?")


def _grader(row: Row, default: GraderName | None) -> GraderName:
    if not row.has("grader"):
        if default is None:
            raise row.wrong("grader", f"names none of {', '.join(GRADER_NAMES)}; --grader is for all rows")
        name = default
    else:
        named = row.text("grader").strip()
        found = next((known for known in GRADER_NAMES if known == named), None)
        if found is None:
            raise row.wrong("grader", f"is {named!r}, which is none of {', '.join(GRADER_NAMES)}")
        if default not in (None, found):
            raise row.wrong("grader", f"is {found!r}, but --grader says {default!r}: give one of them")
        name = found
    for field, owner in _FIELDS_OF.items():
        if owner != name and row.value(field) not in (None, "", []):
            raise row.wrong(field, f"is for the grader {owner!r}, but this row is graded by {name!r}")
    return name


def _prompt(row: Row, grader: GraderName, choices: list[str], function: str | None) -> str:
    if row.has("prompt") and row.has("question"):
        raise row.wrong("prompt", "and field 'question' are both there: give one of them")
    if row.has("prompt"):
        return row.text("prompt")
    options = "\n".join(f"({letter}) {choice}" for letter, choice in zip(LETTERS, choices, strict=False))
    if grader == "program":
        asked = (
            f"Write the Python function {function}."
            if function
            else "Write a Python program that reads its input from stdin and writes the answer to stdout."
        )
        return "\n\n".join((row.text("question", "prompt").strip(), asked, _INSTRUCTIONS[grader]))
    parts = (row.text("question", "prompt").strip(), options, _INSTRUCTIONS[grader])
    return "\n\n".join(part for part in parts if part)


def _answer(row: Row, grader: GraderName, choices: list[str]) -> str:
    if grader == "program":
        return ""
    if grader == "choice":
        return _letter(row, choices)
    if grader == "number":
        return _number(row)
    answer = row.answer("answer")
    if grader == "regex":
        _check_pattern(row, answer)
    return unicodedata.normalize("NFC", answer) if grader == "exact" else answer


def _number(row: Row) -> str:
    value = row.value("answer")
    if isinstance(value, float | Decimal):
        if not Decimal(value).is_finite():
            raise row.wrong("answer", f"is {value}, which no response can equal")
        return _without_exponent(str(value))
    answer = row.answer("answer")
    if _EXPONENT.fullmatch(answer):
        return _without_exponent(answer)
    if _DATE.fullmatch(answer):
        raise row.wrong(
            "answer", f"is {answer!r}, which isn't one number; dates and times are for 'exact' or 'regex'"
        )
    if "\\" not in answer and not any(character.isdecimal() for character in answer):
        raise row.wrong("answer", f"is {answer!r}: expected a number or LaTeX; other texts are for 'exact'")
    return answer


def _without_exponent(number: str) -> str:
    """A number as people write it: "1e-05" is a product to a reader of formulas."""
    exact = Decimal(number)
    if abs(exact.adjusted()) <= _MOST_ZEROS:
        return f"{exact:f}"
    digits, _, exponent = f"{exact.normalize():e}".partition("e")
    return f"{digits} \\times 10^{{{int(exponent)}}}"


def _letter(row: Row, choices: list[str]) -> str:
    answer = row.answer("answer")
    offered = LETTERS[: len(choices)] if choices else LETTERS
    letter = answer.strip("()").upper()
    by_letter = letter if len(letter) == 1 and letter in offered else None
    by_text = LETTERS[choices.index(answer)] if answer in choices else None
    if by_letter and by_text and by_letter != by_text:
        raise row.wrong("answer", f"is {answer!r}, which is the letter of one option and the text of another")
    if (found := by_text or by_letter) is None:
        what = f"one of {', '.join(offered)}" + (" or the text of a choice" if choices else "")
        raise row.wrong("answer", f"is {answer!r}: expected {what}")
    return found


def _offered(answer: str, choices: list[str]) -> str:
    """The letters of the choices; of a question that lists its options itself, four if the answer is one of them."""
    if choices:
        return LETTERS[: len(choices)]
    return FOUR_LETTERS if answer in FOUR_LETTERS else LETTERS


def _choices(row: Row) -> list[str]:
    listed = _json(row, "choices")
    if listed in (None, []):
        return []
    if not isinstance(listed, list) or not 2 <= len(listed) <= len(LETTERS):
        raise row.wrong("choices", f"expected a list of 2 to {len(LETTERS)} options")
    choices = []
    for number, choice in enumerate(listed, start=1):
        option = Row(f"{row.place}, field 'choices'", number, {str(number): _plain(choice)})
        choices.append(option.text(str(number)).strip())
    if twice := next((choice for choice in choices if choices.count(choice) > 1), None):
        raise row.wrong("choices", f"hold {twice!r} twice")
    return choices


def _plain(choice: Any) -> Any:
    return str(choice) if isinstance(choice, float) else choice


def _function(row: Row) -> str | None:
    if not row.has("function"):
        return None
    name = row.text("function").strip()
    if not name.isidentifier():
        raise row.wrong("function", f"is {name!r}, which names no function")
    return name


def _tests(row: Row, function: str | None) -> str:
    """The tests in the form of `contest_tests`.

    Of a function, an input that is text holds its arguments as JSON, one a line; another value is its one argument.
    """
    listed = _json(row, "tests")
    if not isinstance(listed, list) or not listed:
        raise row.wrong("tests", "expected a list of objects with input and output")
    kind = "functional" if function else "stdin"
    written = []
    for number, test in enumerate(listed, start=1):
        if not isinstance(test, dict) or test.get("input") is None or test.get("output") is None:
            raise row.wrong("tests", f"test {number}: expected an object with input and output")
        texts = {name: _as_text(test[name]) for name in ("input", "output")}
        if not function and any(isinstance(test[name], list | dict) for name in texts):
            raise row.wrong("tests", f"test {number}: expected text as input and output; values are for a function")
        written.append({**texts, "testtype": kind})
    text = json.dumps(written)
    try:
        read_tests(text)
    except TestsError as error:
        raise row.wrong("tests", str(error)) from error
    return text


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def tests_of(question: OwnQuestion) -> ContestTests:
    """The tests of a question for a program."""
    return read_tests(question.tests)


def _json(row: Row, name: str) -> Any:
    """A field that is a list or an object, or, as in CSV, the JSON of one."""
    value = row.value(name)
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise row.wrong(name, f"expected JSON: {error}") from error


def _check_pattern(row: Row, pattern: str) -> None:
    try:
        compiled = regex.compile(pattern)
    except regex.error as error:
        raise row.wrong("answer", f"is no regular expression: {error}") from error
    if compiled.search(""):
        raise row.wrong("answer", f"is {pattern!r}, which any response matches")


def check_grader(name: str) -> GraderName:
    """A grader by its name.

    Raises:
        QueryError: There is none of this name.
    """
    found = next((known for known in GRADER_NAMES if known == name), None)
    if found is None:
        raise QueryError(f"--grader: {name!r} is none of {', '.join(GRADER_NAMES)}")
    return found
