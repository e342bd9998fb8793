import pytest

from evaluation.reference.corpus.samples import draw_sample
from evaluation.reference.corpus.verifier import SuiteVerifier, extract_answer, is_correct, read_meaning
from labeler_jobs.verifiers.verifier import VerificationCase


def divergent(llm: str, slm: str, context: str = "", rest: str = "") -> bool:
    [verdict] = SuiteVerifier().judge([VerificationCase(context, llm, slm, rest)])
    return verdict.divergent


@pytest.mark.parametrize(
    ("llm", "slm"),
    [
        ("On Monday, she gets 4, so 7 plus 4 is 11.", "Then on Monday, she adds 4, and so 7 plus 4 makes 11."),
        ("On Friday, he gives up 3, so 9 minus 3 is 6.", "On Friday, he is short 3, which means 9 minus 3 gives 6."),
        ("Line B doubles x, so 5 times 2 is 10.", "Line B makes x twice as large, so 5 times 2 is 10."),
        (
            "Line C checks if 4 > 9, which is false, so x stays 4.",
            "Line C tests if 4 > 9, which is false, so x is still 4.",
        ),
        (
            "Compared to Leo, Mia is 3 years older, so 4 plus 3 is 7.",
            "Next to Leo, Mia is 3 years older, so 4 plus 3 is 7.",
        ),
        ("The program prints 8.", "So it prints 8."),
        ("Eva starts with 5 pens.", "At first, Eva has 5 pens."),
        ("Wait, let me double-check: 4 plus 3 is 7, yes.", "Let me check that again: 4 plus 3 is 7, yes."),
    ],
)
def test_verifier_other_wording_is_neutral(llm: str, slm: str) -> None:
    assert not divergent(llm, slm)


@pytest.mark.parametrize(
    ("llm", "slm"),
    [
        ("On Monday, she gets 4, so 7 plus 4 is 11.", "On Monday, she gets 4, so 7 plus 4 is 12."),
        ("On Monday, she gets 4, so 7 plus 4 is 11.", "On Monday, she gets 5, so 7 plus 5 is 12."),
        ("On Monday, she gets 4, so 7 plus 4 is 11.", "On Monday, she loses 4, so 7 minus 4 is 3."),
        ("On Monday, she gets 4, so 7 plus 4 is 11.", "On Tuesday, she gets 4, so 7 plus 4 is 11."),
        (
            "Line C checks if 4 > 9, which is false, so x stays 4.",
            "Line C checks if 4 > 9, which is true, so x stays 4.",
        ),
        (
            "Next to Leo, Mia is 3 years older, so 4 plus 3 is 7.",
            "Next to Leo, Zoe is 3 years older, so 4 plus 3 is 7.",
        ),
        ("Line B adds 2 to x, so 3 plus 2 is 5.", "</think>"),
    ],
)
def test_verifier_other_content_is_divergent(llm: str, slm: str) -> None:
    assert divergent(llm, slm)


CHECK = "Wait, let me double-check: 7 plus 4 is 11."
CONTEXT = "<think>\nOn Monday, she gets 4, so 7 plus 4 is 11."


def test_verifier_correct_double_check_adds_nothing() -> None:
    assert not divergent("</think>", CHECK, CONTEXT)


def test_verifier_double_check_of_something_else_is_divergent() -> None:
    assert divergent("</think>", CHECK.replace("11", "12"), CONTEXT)


def test_judge_batch_gives_one_verdict_a_case_in_order() -> None:
    cases = [VerificationCase("", "x is 1.", slm, "") for slm in ("x is 2.", "x is 1.", "x is 3.")]
    assert [verdict.divergent for verdict in SuiteVerifier().judge(cases)] == [True, False, True]
    assert SuiteVerifier().judge([]) == []


def test_verifier_left_out_double_check_is_compared_with_what_follows_it() -> None:
    assert not divergent(CHECK, "</think>", CONTEXT, rest="</think>\nSo it prints 11.")
    assert divergent(CHECK, "On Tuesday, she gets 1, so 11 plus 1 is 12.", CONTEXT, rest="</think>\nSo it prints 11.")


@pytest.mark.parametrize("index", range(0, 300, 7))
def test_verifier_correct_sentences_keep_their_numbers_in_order(index: int) -> None:
    for sentence in draw_sample(index).response.splitlines():
        meaning = read_meaning(sentence)
        assert all(str(number) in sentence for number in meaning.numbers)
        assert not divergent(sentence, sentence)


def test_extract_answer_takes_the_last_one() -> None:
    assert extract_answer("The answer is 3. No. The answer is 4.") == 4


@pytest.mark.parametrize("response", ["", "The answer is", "The answer is four."])
def test_is_correct_response_without_answer_is_wrong(response: str) -> None:
    assert not is_correct(response, 4)
