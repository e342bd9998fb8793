import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.graders.grade import Grade
from evaluation.graders.math_answer import MathGrader
from tests.unit.evaluation.graders.corpus import rows

GOLD = "42"
CASES = rows("math_cases.txt", 4)
SHAPES = [
    r"\boxed{#\,\mathrm{km/h}}",
    r"\boxed{#\text{ (cm)}^2}",
    r"\boxed{\textbf{(C) }#}",
    r"\boxed{\underline{#}}",
    "The answer is therefore #, since it fits.",
    "**Final Answer**\n\n#",
    "My answer is 12345. No wait, the answer is #.",
    "\\boxed{#}\nCheck: \\boxed{m+n}",
]
PLAIN = MathGrader()
"""Needs no worker: these shapes come down to whole numbers."""
TOO_LONG = [rf"\boxed{{{'4' * 5000}}}", rf"\boxed{{{'(' * 3000}42{')' * 3000}}}"]


@pytest.fixture(scope="module")
def grader() -> Iterator[MathGrader]:
    with MathGrader(timeout_s=5) as grader:
        yield grader


@pytest.mark.parametrize(("kind", "gold", "verdict", "response"), CASES)
def test_grade_tells_right_from_wrong(grader: MathGrader, kind: str, gold: str, verdict: str, response: str) -> None:
    grade = grader.grade(response, gold)
    assert ("right" if grade.correct else "wrong") == verdict, f"{kind}: {grade}"


@pytest.mark.parametrize("response", TOO_LONG, ids=["digits", "brackets"])
def test_grade_answer_beyond_all_measure_is_wrong(grader: MathGrader, response: str) -> None:
    assert not grader.grade(response, GOLD).correct


def test_math_cases_hold_at_least_150() -> None:
    assert len(CASES) >= 150


def test_grade_from_eight_threads_equals_one_after_another(grader: MathGrader) -> None:
    with ThreadPoolExecutor(max_workers=8) as threads:
        grades = list(threads.map(lambda case: grader.grade(case[3], case[1]), CASES))
    assert [grade.correct for grade in grades] == [verdict == "right" for _, _, verdict, _ in CASES]


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 9999), st.integers(0, 9999), st.sampled_from(SHAPES))
def test_grade_any_number_in_any_shape_is_right_for_itself_alone(value: int, other: int, shape: str) -> None:
    with_value = shape.replace("#", str(value))
    assert PLAIN.grade(with_value, str(value)).correct
    assert PLAIN.grade(with_value, str(other)).correct == (value == other)


def test_grade_gold_in_latex_is_compared_by_value(grader: MathGrader) -> None:
    assert grader.grade(r"\boxed{0.5}", r"\frac{1}{2}").correct


@pytest.mark.parametrize("hostile", ["9^{9^{9^{9}}}", "2^{2^{40}}", "100000!!!"])
def test_grade_hostile_answer_off_the_main_thread_ends_in_time_and_the_grader_goes_on(hostile: str) -> None:
    grades: list[Grade] = []
    with MathGrader(timeout_s=1) as grader:
        assert grader.grade(r"\boxed{42.0}", GOLD).correct
        started = time.monotonic()
        thread = threading.Thread(target=lambda: grades.append(grader.grade(rf"\boxed{{{hostile}}}", GOLD)))
        thread.start()
        thread.join(timeout=30)
        assert time.monotonic() - started < 5
        assert grades[0].reason == "boxed, not read within 1 s"


def test_grade_after_a_killed_worker_starts_another() -> None:
    with MathGrader(timeout_s=1) as grader:
        assert not grader.grade(r"\boxed{9^{9^{9^{9}}}}", GOLD).correct
        assert grader.grade(r"\boxed{42.0}", GOLD) == Grade(True, "42.0", "boxed, 42 is right")
