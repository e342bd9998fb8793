import hypothesis.strategies as st
from hypothesis import given, settings

from services.orchestrator.index.block_hash import BLOCK_LEN, block_hashes

token_ids = st.lists(st.integers(0, 2), max_size=5 * BLOCK_LEN)


@settings(deadline=None)
@given(token_ids, token_ids)
def test_hashes_agree_exactly_as_far_as_whole_blocks_do(first: list[int], second: list[int]) -> None:
    pairs = zip(block_hashes(first, b"pair"), block_hashes(second, b"pair"), strict=False)

    for i, (one, other) in enumerate(pairs, start=1):
        assert (one == other) == (first[: i * BLOCK_LEN] == second[: i * BLOCK_LEN])


@settings(deadline=None)
@given(token_ids, token_ids)
def test_hashes_of_a_prefix_are_a_prefix_of_the_hashes(prefix: list[int], rest: list[int]) -> None:
    hashes = block_hashes(prefix, b"pair")

    assert block_hashes(prefix + rest, b"pair")[: len(hashes)] == hashes
    assert len(hashes) == len(prefix) // BLOCK_LEN


def test_hashes_of_a_changed_first_token_differ_in_every_block() -> None:
    first = block_hashes([1] + [0] * 63, b"pair")
    second = block_hashes([2] + [0] * 63, b"pair")

    assert len({*first, *second}) == 8


def test_hashes_of_equal_blocks_differ_by_position() -> None:
    assert len(set(block_hashes([7] * 64, b"pair"))) == 4


def test_hashes_of_another_pair_differ() -> None:
    assert not {*block_hashes([7] * 64, b"pair")} & {*block_hashes([7] * 64, b"other")}


def test_hashes_tell_the_largest_ids_apart() -> None:
    largest = 2**32 - 1
    assert block_hashes([largest] * 16, b"pair") != block_hashes([largest - 1] * 16, b"pair")
    assert len(block_hashes([largest] * 16, b"pair")[0]) == 16
