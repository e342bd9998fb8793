import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labeler_jobs.sentence import sentence_end, sentence_start


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("It is 7. Then", "It is 7."),
        ("Pi is 3.14 or so. Yes", "Pi is 3.14 or so."),
        ("Really?! No", "Really?!"),
        ('He said "go." Then', 'He said "go."'),
        ("a line\nnext", "a line\n"),
        ("\n\nfirst. second", "\n\nfirst."),
        ("\u3053\u308c\u306f\u672c\u3002\u6b21", "\u3053\u308c\u306f\u672c\u3002"),
    ],
)
def test_sentence_end_finds_where_the_first_sentence_ends(text: str, sentence: str) -> None:
    end = sentence_end(text)
    assert text[:end] == sentence


@pytest.mark.parametrize("text", ["", "still going", "maybe 3.", "   \n ", "x = 1.5"])
def test_sentence_end_open_sentence_has_none(text: str) -> None:
    assert sentence_end(text) is None


def test_sentence_start_just_after_a_stop_is_the_next_sentence() -> None:
    text = "One is 1. Two is 2. Three"
    assert sentence_start(text, 9) == 9
    assert sentence_start(text, 8) == 0
    assert sentence_start(text, 15) == 9


@settings(deadline=None)
@given(st.text(alphabet="ab 1.!\n", max_size=60), st.integers(0, 60))
def test_sentence_start_never_lies_past_the_position(text: str, position: int) -> None:
    position = min(position, len(text))
    start = sentence_start(text, position)
    assert 0 <= start <= position
    end = sentence_end(text, start)
    assert end is None or end > position or end == start or position == start
