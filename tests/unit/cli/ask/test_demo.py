import pytest

from evaluation.reference.corpus.samples import DOMAINS, draw_sample, training_samples
from services.cli.ask.demo import HELD_OUT_INDICES, Result, final_number
from services.client import Completion

SAMPLE = draw_sample(HELD_OUT_INDICES[0])


def test_demo_questions_are_one_of_each_domain() -> None:
    assert [draw_sample(index).domain for index in HELD_OUT_INDICES] == list(DOMAINS)


def test_demo_questions_were_not_trained_on() -> None:
    asked = {draw_sample(index).query for index in HELD_OUT_INDICES}
    assert not any(sample.query in asked for sample in training_samples())


@pytest.mark.parametrize(
    ("text", "number"),
    [("So 3. The answer is 28.", 28), ("The answer is 3. No: The answer is -4.", -4), ("28", None), ("", None)],
)
def test_final_number_is_the_last_one_stated(text: str, number: int | None) -> None:
    assert final_number(text) == number


def test_result_own_response_of_the_sample_is_right() -> None:
    assert Result(SAMPLE, Completion(text=SAMPLE.response)).is_right


def test_result_other_number_is_wrong() -> None:
    assert not Result(SAMPLE, Completion(text=f"The answer is {SAMPLE.answer + 1}.")).is_right
