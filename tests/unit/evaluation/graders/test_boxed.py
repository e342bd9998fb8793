import time

import pytest

from evaluation.graders.boxed import boxes
from evaluation.graders.choice_letter import extract_choice
from evaluation.graders.math_answer import extract_answer
from evaluation.graders.program_text import extract_program


@pytest.mark.parametrize(
    ("text", "answers"),
    [
        (r"\boxed{1} and \boxed{2}", ["1", "2"]),
        (r"\boxed{\frac{1}{2}}", [r"\frac{1}{2}"]),
        (r"\boxed{\{1, 2\}}", [r"\{1, 2\}"]),
        (r"\boxed{\boxed{3}}", [r"\boxed{3}"]),
        (r"\boxed{\boxed{3}", ["3"]),
        (r"\boxed 7.", ["7"]),
        (r"\boxed{}", [""]),
        (r"\boxed{1", []),
        (r"\boxed{1\}", []),
        (r"} \boxed{1}", ["1"]),
        (r"\boxedness{1}", []),
        ("boxed{1}", []),
    ],
)
def test_boxes_reads_closed_boxes_in_order(text: str, answers: list[str]) -> None:
    assert [box.content for box in boxes(text)] == answers


@pytest.mark.parametrize(
    "unit",
    [
        r"\boxed{",
        r"\boxed{}",
        "{",
        "}",
        "answer ",
        "The answer is ",
        "wait ",
        "no, ",
        "\\boxed{A} or ",
        "$A",
        "答案",
        "option C ",
        "The answer is 1 wait ",
        "```python\n",
        "``` \n",
        "(A",
        "\\",
        " ",
    ],
)
def test_extraction_from_a_model_that_repeats_itself_takes_no_time(unit: str) -> None:
    text = unit * (200_000 // len(unit))
    started = time.process_time()
    extract_answer(text, "42")
    extract_choice(text)
    extract_program(text)
    assert time.process_time() - started < 5
