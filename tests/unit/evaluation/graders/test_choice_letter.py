import pytest

from evaluation.graders.choice_letter import LETTERS, extract_choice, grade_choice
from tests.unit.evaluation.graders.corpus import rows

CASES = rows("choice_cases.txt", 3)


@pytest.mark.parametrize(("kind", "letter", "response"), CASES)
def test_extract_choice_finds_the_letter_that_a_response_settles_on(kind: str, letter: str, response: str) -> None:
    assert (extract_choice(response)[0] or "-") == letter


@pytest.mark.parametrize("letter", LETTERS)
def test_extract_choice_of_any_letter_is_found_in_every_form(letter: str) -> None:
    forms = {
        response.replace("C", letter) for kind, right, response in CASES if right == "C" and kind == "conclusion"
    }
    plain = [
        form for form in forms if form.count(letter) == 1 and "option " not in form.replace(f"option {letter}", "")
    ]
    assert [form for form in plain if extract_choice(form)[0] != letter] == []


@pytest.mark.parametrize("letter", "EFGHJ")
def test_extract_choice_beyond_four_options_is_found_in_every_form(letter: str) -> None:
    forms = [
        (response, response.replace("C", letter).replace("\\boxed{c}", f"\\boxed{{{letter.lower()}}}"))
        for kind, right, response in CASES
        if right == "C" and response.count("C") == 1 and not kind.startswith("no")
    ]
    assert len(forms) > 50
    missed = [form for _, form in forms if extract_choice(form, "ABCDEFGHIJ")[0] != letter]
    assert missed == []


@pytest.mark.parametrize(("kind", "letter", "response"), CASES)
def test_extract_choice_more_options_change_no_answer_among_the_first_four(
    kind: str, letter: str, response: str
) -> None:
    found = extract_choice(response, "ABCDEFGHIJ")[0] or "-"
    assert found == letter or (letter == "-" and found in "EFGHIJ")


def test_choice_cases_hold_at_least_150() -> None:
    assert len(CASES) >= 150


def test_grade_choice_says_what_was_read() -> None:
    assert grade_choice("The answer is (B)", "B").correct
    wrong = grade_choice("The answer is (B)", "C")
    assert (wrong.correct, wrong.extracted, wrong.reason) == (False, "B", "stated B, C is right")
    assert grade_choice("The answer is A or B.", "A").reason == "ambiguous: A, B"
