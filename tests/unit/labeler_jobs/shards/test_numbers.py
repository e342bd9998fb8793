import pytest
from hypothesis import given
from hypothesis import strategies as st

from labeler_jobs.shards.numbers import format_numbers, parse_numbers


@given(st.sets(st.integers(0, 300)))
def test_numbers_survive_their_text(numbers: set[int]) -> None:
    assert parse_numbers(format_numbers(numbers)) == sorted(numbers)


@pytest.mark.parametrize(
    ("text", "numbers"), [("", []), ("3", [3]), ("0,4-7", [0, 4, 5, 6, 7]), ("7,4-5,4", [4, 5, 7]), ("9-9", [9])]
)
def test_text_as_kubernetes_writes_it_is_read(text: str, numbers: list[int]) -> None:
    assert parse_numbers(text) == numbers


def test_neighbours_are_written_as_ranges() -> None:
    assert format_numbers([7, 0, 4, 6, 5]) == "0,4-7"


@pytest.mark.parametrize(
    ("text", "found"), [("1,,2", "''"), ("a", "'a'"), ("-1", "'-1'"), ("1-2-3", "'1-2-3'"), ("5-4", "ends before it")]
)
def test_anything_else_is_refused(text: str, found: str) -> None:
    with pytest.raises(ValueError, match=found):
        parse_numbers(text)
