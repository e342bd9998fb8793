"""Grades programs: the one that a response gives, run in a sandbox against every test, until one fails.

Whatever a program prints and a function returns is an answer, right or wrong: nothing of it raises an error here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from evaluation.graders.grade import Grade
from evaluation.graders.program_text import extract_program
from evaluation.graders.sandbox import Execution, Sandbox

_RUNNER = Path(__file__).with_name("program_runner.py")
_SHOWN_LEN = 200


@dataclass(frozen=True)
class CodeTest:
    """One test of a program.

    Attributes:
        given: Text on stdin; of a function, its arguments, one JSON value a line.
        expected: Text on stdout; of a function, its value as JSON.
    """

    given: str
    expected: str


def grade_program(response: str, tests: Iterable[CodeTest], function: str | None, sandbox: Sandbox) -> Grade:
    """Runs a response's program against tests.

    Args:
        response: All of it; what comes before the end of thinking isn't read.
        tests: At least one; they are drawn one at a time, so that a failure ends the work.
        function: The function, or method of a class `Solution`, that is called; None runs it as a program on stdin.
        sandbox: Where it runs, once for each test.

    Returns:
        Correct if every test passes; else the reason names the first that fails.

    Raises:
        SandboxUnavailable: Programs can't be isolated here.
        ValueError: There are no tests.
    """
    program = extract_program(response)
    if program is None:
        return Grade(correct=False, extracted=None, reason="no fenced block of Python")
    num_passed = 0
    for test in tests:
        execution = _execute(program, test, function, sandbox)
        failure = _failure(execution, test, function)
        if failure is not None:
            return Grade(correct=False, extracted=program, reason=f"test {num_passed + 1}: {failure}")
        num_passed += 1
    if not num_passed:
        raise ValueError("a program can't be graded without tests")
    return Grade(correct=True, extracted=program, reason=f"passed {num_passed} tests")


def _execute(program: str, test: CodeTest, function: str | None, sandbox: Sandbox) -> Execution:
    arguments = [line for line in test.given.split("\n") if line.strip()] if function else []
    files = {
        "main.py": _RUNNER.read_text(encoding="utf-8"),
        "solution.py": program,
        "plan.json": json.dumps({"function": function, "arguments": arguments}),
    }
    return sandbox.run(files, "main.py", "" if function else test.given)


def _failure(execution: Execution, test: CodeTest, function: str | None) -> str | None:
    if execution.ending != "exited":
        return execution.ending
    if execution.exit_code != 0:
        lines = execution.stderr.decode(errors="replace").strip().splitlines()
        said = f": {lines[-1][:_SHOWN_LEN]}" if lines else ""
        return f"exit code {execution.exit_code}{said}"
    written = execution.stdout.decode(errors="replace")
    same = _is_value(written, test.expected) if function else is_same_output(written, test.expected)
    return None if same else f"wrong answer {written.strip()[:_SHOWN_LEN]!r}"


def read_value(text: str) -> Any:
    """Reads a function's value or argument; integers of any length.

    Raises:
        ValueError: It isn't JSON, or nested too deeply to be read.
    """
    try:
        # Exact, and without the limit that Python sets on the digits of an integer.
        return json.loads(text, parse_int=Decimal)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _is_value(written: str, expected: str) -> bool:
    wanted = read_value(expected)
    try:
        return bool(read_value(written) == wanted)
    except (ValueError, ArithmeticError, RecursionError):
        return False


def is_same_output(written: str, expected: str) -> bool:
    """Compares outputs line by line, space around lines and final newlines aside; numbers by value."""
    lines, wanted = written.strip().split("\n"), expected.strip().split("\n")
    return len(lines) == len(wanted) and all(map(_is_same_line, lines, wanted))


def _is_same_line(line: str, wanted: str) -> bool:
    if line.strip() == wanted.strip():
        return True
    numbers, wanted_numbers = _numbers(line), _numbers(wanted)
    return numbers is not None and numbers == wanted_numbers


def _numbers(line: str) -> list[Decimal] | None:
    try:
        numbers = [Decimal(word) for word in line.split()]
    except (ArithmeticError, ValueError):
        return None
    # A signalling NaN raises an error as soon as it is compared.
    return None if any(number.is_nan() for number in numbers) else numbers
