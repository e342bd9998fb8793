from __future__ import annotations

from services.llm.questions import Questions


def test_answered_tells_how_long_it_took_and_counts_positions() -> None:
    questions = Questions()
    questions.asked(7, 1, 3, 10.0)
    questions.asked(8, 1, 2, 11.0)
    assert (len(questions), questions.num_positions) == (2, 5)
    assert questions.answered(7, 1, 10.5) == 0.5
    assert (len(questions), questions.num_positions, questions.num_positions_answered) == (1, 2, 3)


def test_answered_pass_of_a_replaced_question_is_none_and_the_newer_one_waits() -> None:
    questions = Questions()
    questions.asked(7, 1, 3, 10.0)
    questions.asked(7, 2, 1, 12.0)
    assert questions.num_positions == 1
    assert questions.answered(7, 1, 13.0) is None
    assert (len(questions), questions.num_positions_answered) == (1, 0)
    assert questions.answered(7, 2, 13.0) == 1.0


def test_withdrawn_question_counts_no_more_and_is_never_answered() -> None:
    questions = Questions()
    questions.asked(7, 1, 3, 10.0)
    questions.withdrawn(7)
    questions.withdrawn(7)
    assert (len(questions), questions.num_positions) == (0, 0)
    assert questions.answered(7, 1, 11.0) is None
    assert questions.num_positions_answered == 0
