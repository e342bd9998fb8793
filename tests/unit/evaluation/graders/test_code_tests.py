import pytest
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st

from evaluation.graders.code_tests import CodeTest, grade_program, is_same_output
from evaluation.graders.sandbox import Sandbox, SandboxLimits
from tests.unit.evaluation.graders.corpus import LINE_BREAK, rows
from tests.unit.evaluation.graders.test_sandbox import isolating

SANDBOX = Sandbox(SandboxLimits(wall_s=3, cpu_s=1, output_bytes=100_000, num_processes=8))
SUMS = [CodeTest("2\n1 2\n", "3\n"), CodeTest("3\n4 5 6\n", "15")]
DOUBLES = [CodeTest("[1, 2]\n3", "[3, 6]"), CodeTest("[]\n2", "[]")]

RIGHT_PROGRAMS = [
    "input()\nprint(sum(map(int, input().split())))",
    "import sys\nprint(sum(map(int, sys.stdin.read().split()[1:])))",
    "def main():\n    input()\n    print(sum(map(int, input().split())))\nif __name__ == '__main__':\n    main()",
    "from __future__ import annotations\nn = input()\nprint(sum(map(int, input().split())), end='')",
    "input()\nprint(f'{sum(map(int, input().split())):.3f}')",
    "_ = sys.stdin.readline()\nprint(reduce(add, map(int, input().split())))",
    "input()\nprint(sum(map(int, input().split())))\nexit()",
    "import sys\nsys.stdin.buffer.readline()\n"
    "sys.stdout.buffer.write(b'%d\\n' % sum(map(int, sys.stdin.buffer.readline().split())))",
    "assert len(str(2**20000)) == 6021\ninput()\nprint(sum(map(int, input().split())))",
    "assert int('9' * 5000)\ninput()\nprint(sum(map(int, input().split())))",
]
WRONG_PROGRAMS = {
    "print(3)": "test 2: wrong answer '3'",
    "input()\nprint(max(map(int, input().split())))": "test 1: wrong answer '2'",
    "input()\nprint('sum', sum(map(int, input().split())))": "test 1: wrong answer 'sum 3'",
    "while True: pass": "test 1: time limit",
    "raise ValueError('no')": "test 1: exit code 1: ValueError: no",
    "def f(:": "test 1: exit code 1: SyntaxError: invalid syntax",
    "print('3' * 10**7)": "test 1: output limit",
    "x = [0] * 10**10": "test 1: exit code 1: MemoryError",
    "import os\nwhile True: os.fork()": "test 1: ",
    "import urllib.request\nurllib.request.urlopen('http://127.0.0.1')": "test 1: exit code 1: ",
    "import sys\nsys.exit(3)": "test 1: exit code 3",
    "input()\ninput()\ninput()": "test 1: exit code 1: EOFError",
    "": "test 1: wrong answer ''",
}
RIGHT_FUNCTIONS = [
    "class Solution:\n"
    "    def scale(self, values: List[int], by: int) -> List[int]:\n        return [v * by for v in values]",
    "def scale(values, by):\n    print('noise', values)\n    return [v * by for v in values]",
    "class Solution:\n    def scale(self, values, by):\n        return tuple(by * v for v in values)",
]
WRONG_FUNCTIONS = {
    "class Solution:\n    def scale(self, values, by):\n        return values": "test 1: wrong answer '[1, 2]'",
    "class Solution:\n    def scale(self, values):\n        return values": "test 1: exit code 1: TypeError",
    "class Solution:\n    pass": "test 1: exit code 1: AttributeError",
    "print([3, 6])": "test 1: exit code 1: KeyError",
    "def scale(values, by):\n    return {1}": "test 1: exit code 1: TypeError",
    "def scale(values, by):\n    while True: pass": "test 1: time limit",
}
ODD_RESULTS = {
    "signalling NaN": "value = float('nan'); print('sNaN')",
    "nested 3,000 deep": "value = eval('[' * 80 + ']' * 80)\n    for _ in range(3000): value = [value]",
    "nested 40,000 deep": "value = 0\n    for _ in range(40_000): value = [value]",
    "integer of 5,000 digits": "value = 10**5000",
    "itself": "value = []; value.append(value)",
    "half a character": "value = '\\ud800'",
    "bytes that are no text": "import os; os.write(1, bytes(range(256))); value = 0",
    "infinity": "value = float('inf')",
    "no JSON": "value = object()",
    "great exponent": "print('1e999999999999999999'); value = 1e308 * 10",
}
WORDS = [
    "sNaN",
    "NaN",
    "inf",
    "-",
    "1",
    "0",
    ".",
    "e9",
    "e999999999",
    "_",
    " ",
    "\n",
    "\x00",
    "\ud800",
    "\u0661",
    "x",
]


PATIENT = Sandbox(SandboxLimits(wall_s=60, cpu_s=3, output_bytes=100_000, num_processes=8))


def fenced(program: str) -> str:
    return f"<think>```python\nprint(7)\n```</think>Here it is:\n```python\n{program}\n```\nIt adds."


@isolating
@pytest.mark.parametrize("program", RIGHT_PROGRAMS)
def test_grade_program_right_one_passes_all_tests(program: str) -> None:
    grade = grade_program(fenced(program), SUMS, None, SANDBOX)
    assert (grade.correct, grade.reason) == (True, "passed 2 tests")


@isolating
@pytest.mark.parametrize(("program", "reason"), WRONG_PROGRAMS.items())
def test_grade_program_wrong_one_says_which_test_fails_and_how(program: str, reason: str) -> None:
    grade = grade_program(fenced(program), SUMS, None, SANDBOX)
    assert not grade.correct
    assert grade.reason.startswith(reason)


@isolating
@pytest.mark.parametrize(("kind", "entry", "given", "expected", "ending", "program"), rows("program_cases.txt", 6))
def test_grade_program_runs_what_was_written_and_says_how_it_ended(
    kind: str, entry: str, given: str, expected: str, ending: str, program: str
) -> None:
    test = CodeTest(given.replace(LINE_BREAK, "\n"), expected.replace(LINE_BREAK, "\n"))
    grade = grade_program(fenced(program), [test], None if entry == "stdin" else entry, PATIENT)
    assert grade.reason.startswith("passed 1" if ending == "passes" else f"test 1: {ending}")
    assert grade.correct is (ending == "passes")


@isolating
@pytest.mark.parametrize("program", RIGHT_FUNCTIONS)
def test_grade_program_right_function_passes(program: str) -> None:
    assert grade_program(fenced(program), DOUBLES, "scale", SANDBOX).correct


@isolating
@pytest.mark.parametrize(("program", "reason"), WRONG_FUNCTIONS.items())
def test_grade_program_wrong_function_says_how(program: str, reason: str) -> None:
    grade = grade_program(fenced(program), DOUBLES, "scale", SANDBOX)
    assert not grade.correct
    assert grade.reason.startswith(reason)


@isolating
@pytest.mark.parametrize("kept", ODD_RESULTS.values(), ids=ODD_RESULTS.keys())
@pytest.mark.parametrize("function", [None, "scale"])
def test_grade_program_odd_result_is_wrong_and_ends_nothing(kept: str, function: str | None) -> None:
    program = f"def scale(*_):\n    {kept}\n    return value\nif __name__ == '__main__':\n    print(scale())"
    grade = grade_program(fenced(program), DOUBLES if function else [CodeTest("", "5")], function, SANDBOX)
    assert not grade.correct


@isolating
def test_grade_program_arguments_and_results_of_many_digits_are_compared_exactly() -> None:
    digits = "7" * 5000
    program = fenced("def scale(value):\n    return value + 1")
    right, wrong = f"{digits[:-1]}8", f"{digits[:-1]}9"
    assert grade_program(program, [CodeTest(digits, right)], "scale", SANDBOX).correct
    assert not grade_program(program, [CodeTest(digits, wrong)], "scale", SANDBOX).correct


@settings(deadline=None)
@drawn(st.lists(st.sampled_from(WORDS), max_size=4), st.lists(st.sampled_from(WORDS), max_size=4))
def test_is_same_output_of_any_words_raises_nothing(written: list[str], expected: list[str]) -> None:
    assert is_same_output("".join(written), "".join(written))
    assert is_same_output("".join(written), "".join(expected)) in (True, False)


def test_grade_program_without_a_block_runs_nothing() -> None:
    grade = grade_program("print(3)", SUMS, None, SANDBOX)
    assert (grade.correct, grade.extracted, grade.reason) == (False, None, "no fenced block of Python")


@isolating
def test_grade_program_without_tests_is_refused() -> None:
    with pytest.raises(ValueError, match="without tests"):
        grade_program(fenced("print(1)"), [], None, SANDBOX)


@pytest.mark.parametrize(("kind", "same", "expected", "written"), rows("output_cases.txt", 4))
def test_is_same_output_forgives_space_and_number_forms_alone(
    kind: str, same: str, expected: str, written: str
) -> None:
    assert is_same_output(written, expected.replace(LINE_BREAK, "\n")) is (same == "same")
