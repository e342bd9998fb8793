import pytest

from evaluation.graders.program_text import extract_program
from tests.unit.evaluation.graders.corpus import LINE_BREAK, rows


@pytest.mark.parametrize(("kind", "program", "response"), rows("code_cases.txt", 3))
def test_extract_program_finds_the_block_that_is_the_program(kind: str, program: str, response: str) -> None:
    expected = None if program == "-" else program.replace(LINE_BREAK, "\n")
    assert extract_program(response) == expected
