import ast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.graders.program_text import extract_program
from tests.unit.evaluation.graders.corpus import LINE_BREAK, rows

STATEMENTS = [
    "x = 1",
    "for y in z:\n    x(y)",
    "def f():\n\treturn '>>> '",
    "# a note",
    "",
    "s = '''\n~~~\n'''",
    "print(x)  # ``",
]
PIECES = [
    "```",
    "````",
    "~~~",
    "python",
    "py",
    "\n",
    "  ",
    "> ",
    "1. ",
    "- ",
    "x = 1",
    '"""',
    "'''",
    "Output:",
    "md",
    ">>> x",
]


@pytest.mark.parametrize(("kind", "program", "response"), rows("code_cases.txt", 3))
def test_extract_program_finds_the_block_that_is_the_program(kind: str, program: str, response: str) -> None:
    expected = None if program == "-" else program.replace(LINE_BREAK, "\n")
    assert extract_program(response) == expected


def test_extract_program_line_ends_of_windows_are_line_ends() -> None:
    assert extract_program("So:\r\n```python\r\na\r\nb\r\n```\r\nDone.") == "a\nb\n"


@given(st.lists(st.sampled_from(STATEMENTS), max_size=6), st.sampled_from(["```", "````", "~~~"]))
def test_extract_program_any_program_comes_out_as_it_went_in(statements: list[str], fence: str) -> None:
    program = "\n".join(["import sys", *statements, "sys.exit()"]) + "\n"
    ast.parse(program)
    if fence == "~~~" and fence in program:
        return
    assert extract_program(f"So:\n{fence}python\n{program}{fence}\nIt works.") == program


@given(st.lists(st.sampled_from(PIECES), max_size=30).map("".join))
def test_extract_program_any_response_has_a_program_or_none(response: str) -> None:
    assert isinstance(extract_program(response), str | None)
