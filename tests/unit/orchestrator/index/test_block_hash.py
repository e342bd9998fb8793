import hypothesis.strategies as st
from hypothesis import given, settings

from services.orchestrator.index.block_hash import BLOCK_LEN, BlockChain

token_ids = st.lists(st.integers(0, 2), max_size=5 * BLOCK_LEN)


def block_hashes(token_ids: list[int], models_identity: bytes = b"models") -> list[bytes]:
    return list(BlockChain(models_identity).hashes(token_ids, len(token_ids)))


@settings(deadline=None)
@given(token_ids, token_ids)
def test_hashes_agree_exactly_as_far_as_whole_blocks_do(first: list[int], second: list[int]) -> None:
    pairs = zip(block_hashes(first), block_hashes(second), strict=False)

    for i, (one, other) in enumerate(pairs, start=1):
        assert (one == other) == (first[: i * BLOCK_LEN] == second[: i * BLOCK_LEN])


@settings(deadline=None)
@given(token_ids, st.lists(st.integers(0, 5 * BLOCK_LEN), max_size=4))
def test_hashes_of_a_sequence_asked_for_bit_by_bit_are_those_of_its_prefixes(
    sequence: list[int], lengths: list[int]
) -> None:
    chain = BlockChain(b"models")

    for length in lengths:
        length = min(length, len(sequence))
        assert list(chain.hashes(sequence, length)) == block_hashes(sequence[:length])
        assert len(block_hashes(sequence[:length])) == length // BLOCK_LEN


class Counted(list[int]):
    """Tokens that know how many of them were read."""

    num_read = 0

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        part = super().__getitem__(index)
        self.num_read += len(part)
        return part


def test_hashes_read_each_token_once() -> None:
    tokens = Counted(range(10 * BLOCK_LEN))
    chain = BlockChain(b"models")

    for length in (3 * BLOCK_LEN, 3 * BLOCK_LEN + 1, 10 * BLOCK_LEN, 5 * BLOCK_LEN):
        chain.hashes(tokens, length)

    assert tokens.num_read == 10 * BLOCK_LEN


def test_hashes_of_a_changed_first_token_differ_in_every_block() -> None:
    assert len({*block_hashes([1] + [0] * 63), *block_hashes([2] + [0] * 63)}) == 8


def test_hashes_of_equal_blocks_differ_by_position() -> None:
    assert len(set(block_hashes([7] * 64))) == 4


def test_hashes_of_other_models_differ() -> None:
    assert not {*block_hashes([7] * 64)} & {*block_hashes([7] * 64, b"other")}


def test_hashes_tell_the_largest_ids_apart() -> None:
    largest = 2**32 - 1
    assert block_hashes([largest] * 16) != block_hashes([largest - 1] * 16)
