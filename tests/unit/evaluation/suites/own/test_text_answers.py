import time

import pytest

from evaluation.suites.own.text_answers import grade_exact, grade_pattern


@pytest.mark.parametrize(
    ("response", "correct"),
    [
        ("Lima", True),
        ("  Lima\n", True),
        ("The capital is:\n\nLima  ", True),
        ("<think>Quito?</think>Lima", True),
        ("It is \\boxed{Lima}.", True),
        ("\\boxed{Quito}, no: \\boxed{Lima}", True),
        ("lima", False),
        ("Lima.", False),
        ("Lima is the capital.", False),
        ("Lima\nor so", False),
        ("\\boxed{Lima}, no: \\boxed{Quito}", False),
        ("<think>Lima</think>", False),
        ("", False),
    ],
)
def test_grade_exact_reads_reply_last_line_or_box(response: str, correct: bool) -> None:
    assert grade_exact(response, "Lima").correct is correct


def test_grade_exact_several_lines_are_the_whole_reply() -> None:
    assert grade_exact("<think>…</think>\na\nb\n", "a\nb").correct
    assert not grade_exact("x\na\nb", "a\nb").correct


def test_grade_exact_same_letters_composed_otherwise_are_the_same() -> None:
    assert grade_exact("Cafe\u0301", "Caf\u00e9").correct


@pytest.mark.parametrize(
    ("response", "correct"),
    [("In LIMA, of course.", True), ("<think>Lima</think>Quito", False), ("Limasol", False), ("", False)],
)
def test_grade_pattern_searches_the_reply(response: str, correct: bool) -> None:
    assert grade_pattern(response, r"(?i)\blima\b").correct is correct


@pytest.mark.alone
@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|aa)+$", "(.*a){25}$"])
def test_grade_pattern_that_would_take_for_ever_is_ended(pattern: str) -> None:
    started = time.perf_counter()
    grade = grade_pattern("a" * 60 + "!", pattern, timeout_s=0.2)
    assert not grade.correct
    assert time.perf_counter() - started < 5
