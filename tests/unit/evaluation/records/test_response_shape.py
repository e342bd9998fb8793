import pytest

from evaluation.records.response_shape import ResponseShape, shape_of


@pytest.mark.parametrize(
    ("token_texts", "shape"),
    [
        (["<think>", "a", ".", "</think>", "b"], ResponseShape(4, [0])),
        # The end of thinking is spread over tokens, and shares its last one with the reply.
        (["a", "</", "think", ">\n", "b"], ResponseShape(4, [0])),
        (["a", "b"], ResponseShape(None, [0])),
        ([], ResponseShape(None, [0])),
        (
            ["<think>", "\n", "So", " 3", ".", "\n", "Wait", ",", " no", ".", "</think>", "Wait"],
            ResponseShape(11, [0, 6]),
        ),
        (
            ["So", " 3", ".", " Wait", ",", " but", " wait", ".", " Alternatively", " 4"],
            ResponseShape(None, [0, 3, 8]),
        ),
        (["Wait", ",", " they", " Wait", " here"], ResponseShape(None, [0])),
        (["a", "", "\n", "Wai", "t", "."], ResponseShape(None, [0, 3])),
        (["a", ".", " Waiting", " is", " hard"], ResponseShape(None, [0])),
    ],
)
def test_shape_of_finds_the_end_of_thinking_and_the_starts_of_thoughts(
    token_texts: list[str], shape: ResponseShape
) -> None:
    assert shape_of(token_texts) == shape
