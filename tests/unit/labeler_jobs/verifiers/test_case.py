from labeler_jobs.verifiers.case import build_case
from labeler_jobs.verifiers.verifier import VerificationCase


def test_build_case_cuts_the_sentence_around_the_fork() -> None:
    prefix = "It is 1. So 2 and "
    case = build_case(prefix, prefix + "3 is 5. Then 6.", prefix + "4 is 6. Th")
    assert case == VerificationCase("It is 1.", "So 2 and 3 is 5.", "So 2 and 4 is 6.", "Then 6.")


def test_build_case_fork_right_after_a_sentence_compares_the_next_one() -> None:
    prefix = "It is 1."
    case = build_case(prefix, prefix + "\nThen 2.\n", prefix + " Now 2.\n")
    assert (case.context, case.llm_sentence, case.slm_sentence) == ("It is 1.", "Then 2.", "Now 2.")


def test_build_case_token_that_keeps_a_number_open_stays_in_its_sentence() -> None:
    case = build_case("It is 1.", "It is 1. Then 2. End", "It is 1.5 now. Th")
    assert case.llm_sentence == "It is 1."
    assert case.slm_sentence == "It is 1.5 now."
