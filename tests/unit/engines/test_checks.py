from __future__ import annotations

import pytest

from services.common.errors import (
    ContextLengthExceeded,
    InvalidRequest,
    PrefixConflict,
    PrefixNotFound,
    TriviumError,
)
from services.engines.base import Extension
from services.engines.checks import check_extension, check_open, check_rewind, check_token_ids

VOCAB_SIZE, CONTEXT_LEN = 10, 8


@pytest.mark.parametrize("token_ids", [[], [0], [9, 0]])
def test_ids_of_the_vocabulary_pass(token_ids: list[int]) -> None:
    check_token_ids(token_ids, VOCAB_SIZE)


@pytest.mark.parametrize("wrong", [-1, 10])
def test_first_id_outside_the_vocabulary_is_named(wrong: int) -> None:
    with pytest.raises(InvalidRequest, match=f"token_ids: {wrong} is outside the vocabulary of 10"):
        check_token_ids([3, wrong, -7], VOCAB_SIZE)


@pytest.mark.parametrize(
    ("token_ids", "is_open", "error", "message"),
    [
        ([1], True, InvalidRequest, "sequence_id: 5 is open already"),
        ([], False, InvalidRequest, "token_ids: the prefix is empty"),
        ([10], False, InvalidRequest, "token_ids: 10"),
        ([1] * 8, False, ContextLengthExceeded, "token_ids: 8 tokens leave no room in a context of 8"),
    ],
)
def test_bad_open_names_the_field(
    token_ids: list[int], is_open: bool, error: type[TriviumError], message: str
) -> None:
    with pytest.raises(error, match=message):
        check_open(5, token_ids, is_open=is_open, vocab_size=VOCAB_SIZE, context_len=CONTEXT_LEN)


def test_open_that_leaves_room_for_one_token_passes() -> None:
    check_open(5, [1] * 7, is_open=False, vocab_size=VOCAB_SIZE, context_len=CONTEXT_LEN)


@pytest.mark.parametrize(
    ("num_held", "length", "token_ids", "error", "message"),
    [
        (None, 0, [1], PrefixNotFound, "sequence_id: 5 is not open"),
        (3, 4, [1], PrefixConflict, "length: 4 tokens are to be kept, 3 are held"),
        (3, -1, [1, 2], InvalidRequest, "length: -1 and 2 more leave no token"),
        (3, 0, [], InvalidRequest, "length: 0 and 0 more leave no token"),
        (3, 2, [10], InvalidRequest, "token_ids: 10"),
        (8, 8, [1], ContextLengthExceeded, "token_ids: 9 tokens don't fit into a context of 8"),
    ],
)
def test_bad_rewind_names_the_field(
    num_held: int | None, length: int, token_ids: list[int], error: type[TriviumError], message: str
) -> None:
    with pytest.raises(error, match=message):
        check_rewind(5, length, token_ids, num_held=num_held, vocab_size=VOCAB_SIZE, context_len=CONTEXT_LEN)


@pytest.mark.parametrize(("length", "token_ids"), [(8, []), (7, [1]), (0, [1])])
def test_rewind_within_what_is_held_and_the_context_passes(length: int, token_ids: list[int]) -> None:
    check_rewind(5, length, token_ids, num_held=8, vocab_size=VOCAB_SIZE, context_len=CONTEXT_LEN)


@pytest.mark.parametrize(
    ("num_held", "base_len", "token_ids", "positions", "error", "message"),
    [
        (None, -1, [1], [0], InvalidRequest, "base_length: -1 is negative"),
        (None, 0, [], [1], InvalidRequest, "token_ids: there are none"),
        (None, 0, [1], [], InvalidRequest, "query_positions: there are none"),
        (None, 0, [1, 2], [2, 1], InvalidRequest, "query_positions: they must ascend"),
        (None, 0, [1, 2], [1, 1], InvalidRequest, "query_positions: they must ascend"),
        (4, 3, [1, 2], [3, 5], InvalidRequest, "query_positions: 3 is not in 4 to 5"),
        (4, 3, [1, 2], [4, 6], InvalidRequest, "query_positions: 6 is not in 4 to 5"),
        (4, 3, [1, -2], [5], InvalidRequest, "token_ids: -2"),
        (None, 3, [1], [4], PrefixNotFound, "sequence_id: 5 is not held"),
        (2, 3, [1], [4], PrefixConflict, "base_length: 3 tokens are expected, 2 are held"),
        (8, 8, [1], [9], ContextLengthExceeded, "token_ids: 9 tokens don't fit into a context of 8"),
    ],
)
def test_bad_extension_names_the_field(
    num_held: int | None,
    base_len: int,
    token_ids: list[int],
    positions: list[int],
    error: type[TriviumError],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        check_extension(
            Extension(5, base_len, token_ids, positions),
            num_held=num_held,
            vocab_size=VOCAB_SIZE,
            context_len=CONTEXT_LEN,
        )


def test_extension_beyond_what_is_held_says_from_where_to_resend() -> None:
    extension = Extension(5, 3, [1], [4])
    with pytest.raises(PrefixNotFound) as unknown:
        check_extension(extension, num_held=None, vocab_size=10, context_len=8)
    with pytest.raises(PrefixConflict) as short:
        check_extension(extension, num_held=2, vocab_size=10, context_len=8)
    assert (unknown.value.need_from, short.value.need_from) == (0, 2)


@pytest.mark.parametrize(("num_held", "base_len"), [(None, 0), (0, 0), (6, 0), (6, 6)])
def test_extension_of_what_is_held_passes(num_held: int | None, base_len: int) -> None:
    positions = [base_len + 1, base_len + 2]
    check_extension(
        Extension(5, base_len, [1, 2], positions), num_held=num_held, vocab_size=VOCAB_SIZE, context_len=CONTEXT_LEN
    )
