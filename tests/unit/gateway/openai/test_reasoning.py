import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.openai.reasoning import CLOSE, OPEN, ReasoningSplitter

PIECES = st.sampled_from([OPEN, CLOSE, "<", "<th", "ink>", "</think", ">", "a", "\n", "思", "</", "<think", "x<y"])
TEXTS = st.lists(PIECES, max_size=12).map("".join)


def split(text: str, cuts: list[int], *, is_open: bool) -> tuple[str, str]:
    splitter = ReasoningSplitter(is_open=is_open)
    borders = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    parts = [splitter.feed(text[start:end]) for start, end in itertools.pairwise(borders)]
    parts.append(splitter.finish())
    return "".join(part.reasoning for part in parts), "".join(part.content for part in parts)


@given(TEXTS, st.lists(st.integers(0, 200), max_size=8), st.booleans())
def test_parts_and_tags_join_to_the_text_however_it_is_cut(text: str, cuts: list[int], is_open: bool) -> None:
    reasoning, content = split(text, cuts, is_open=is_open)
    opens = is_open or text.startswith(OPEN)
    opening = OPEN if opens and not is_open else ""
    closes = opens and CLOSE in text
    assert opening + reasoning + (CLOSE if closes else "") + content == text
    assert CLOSE not in reasoning
    assert opens or not reasoning


@given(TEXTS, st.integers(0, 200), st.booleans())
def test_what_has_come_out_depends_on_the_text_alone(text: str, cut: int, is_open: bool) -> None:
    whole, pieces = ReasoningSplitter(is_open=is_open), ReasoningSplitter(is_open=is_open)
    at = cut % (len(text) + 1)
    first, second = pieces.feed(text[:at]), pieces.feed(text[at:])
    assert whole.feed(text) == (first.reasoning + second.reasoning, first.content + second.content)


@pytest.mark.parametrize(
    ("text", "is_open", "parts"),
    [
        ("<think>\na\n</think>\n\nb", False, ("\na\n", "\n\nb")),
        ("a\n</think>b", True, ("a\n", "b")),
        ("no tag at all", False, ("", "no tag at all")),
        ("cut in its thou", True, ("cut in its thou", "")),
        ("<think>cut", False, ("cut", "")),
        ("a <think>b</think>", False, ("", "a <think>b</think>")),
        ("<thin", False, ("", "<thin")),
        ("x</thin", True, ("x</thin", "")),
        ("", True, ("", "")),
    ],
)
def test_tags_where_they_may_stand_are_split(text: str, is_open: bool, parts: tuple[str, str]) -> None:
    assert split(text, list(range(len(text))), is_open=is_open) == parts
