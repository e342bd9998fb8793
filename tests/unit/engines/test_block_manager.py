from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from services.engines.transformers.block_manager import PADDING_BLOCK, BlockManager, BlockTable

BLOCK_LEN = 4
NUM_BLOCKS = 12


def filled(manager: BlockManager, token_ids: list[int]) -> BlockTable:
    table = BlockTable(manager.block_len)
    manager.grow(table, len(token_ids))
    manager.commit(table, token_ids, len(token_ids))
    return table


def test_reuse_of_a_registered_prefix_shares_its_full_blocks() -> None:
    manager = BlockManager(NUM_BLOCKS, BLOCK_LEN)
    first = filled(manager, list(range(10)))
    second = BlockTable(BLOCK_LEN)
    assert manager.reuse(second, list(range(10)), 10) == 8
    assert second.block_ids == first.block_ids[:2]
    assert manager.num_used_tokens == 3 * BLOCK_LEN


def test_reuse_stops_at_the_limit_and_at_the_first_other_token() -> None:
    manager = BlockManager(NUM_BLOCKS, BLOCK_LEN)
    filled(manager, list(range(12)))
    assert manager.reuse(BlockTable(BLOCK_LEN), list(range(12)), 11) == 8
    assert manager.reuse(BlockTable(BLOCK_LEN), [0, 1, 2, 3, 4, 5, 99, 7, 8, 9, 10, 11], 12) == 4


def test_reuse_needs_the_same_tokens_before_the_block_too() -> None:
    manager = BlockManager(NUM_BLOCKS, BLOCK_LEN)
    filled(manager, [1, 1, 1, 1, 5, 6, 7, 8])
    assert manager.reuse(BlockTable(BLOCK_LEN), [5, 6, 7, 8], 4) == 0


def test_freed_block_is_found_until_it_is_handed_out_again_ends_first() -> None:
    manager = BlockManager(3, BLOCK_LEN)
    tokens = list(range(12))
    manager.free(filled(manager, tokens))
    assert manager.num_used_tokens == 0
    manager.grow(BlockTable(BLOCK_LEN), BLOCK_LEN)
    found = BlockTable(BLOCK_LEN)
    assert manager.reuse(found, tokens, 12) == 8


def test_blocks_without_content_are_handed_out_before_cached_ones() -> None:
    manager = BlockManager(4, BLOCK_LEN)
    manager.free(filled(manager, list(range(8))))
    manager.grow(BlockTable(BLOCK_LEN), 8)
    assert manager.reuse(BlockTable(BLOCK_LEN), list(range(8)), 8) == 8


def test_grow_beyond_the_budget_takes_nothing_and_names_both_numbers() -> None:
    manager = BlockManager(3, BLOCK_LEN)
    table = BlockTable(BLOCK_LEN)
    manager.grow(table, 5)
    assert (manager.num_missing_tokens(table, 13), manager.num_free_tokens) == (8, 4)
    with pytest.raises(ValueError, match=r"2 more blocks are needed, 1 are free"):
        manager.grow(table, 13)
    assert table.capacity == 8
    assert manager.num_missing_tokens(table, 8) == manager.num_missing_tokens(table, 1) == 0


def test_shared_blocks_become_free_with_their_last_holder() -> None:
    manager = BlockManager(NUM_BLOCKS, BLOCK_LEN)
    tokens = list(range(12))
    first = filled(manager, tokens)
    second = BlockTable(BLOCK_LEN)
    manager.reuse(second, tokens, 8)
    given_up: Counter[int] = Counter()
    assert manager.num_tokens_freed(first, given_up) == 4
    assert manager.num_tokens_freed(second, given_up) == 8
    assert manager.num_tokens_freed(second, Counter()) == 0


def test_truncate_inside_a_shared_block_gives_it_up() -> None:
    manager = BlockManager(NUM_BLOCKS, BLOCK_LEN)
    tokens = list(range(8))
    first = filled(manager, tokens)
    second = BlockTable(BLOCK_LEN)
    manager.reuse(second, tokens, 8)
    assert manager.truncate(second, 6) == 4
    assert second.block_ids == first.block_ids[:1]
    assert manager.reuse(BlockTable(BLOCK_LEN), tokens, 8) == 8


def test_truncate_inside_a_registered_block_of_ones_own_keeps_and_unregisters_it() -> None:
    manager = BlockManager(NUM_BLOCKS, BLOCK_LEN)
    table = filled(manager, list(range(8)))
    assert manager.truncate(table, 6) == 6
    assert len(table.block_ids) == 2
    assert manager.reuse(BlockTable(BLOCK_LEN), list(range(8)), 8) == 4


def test_manager_without_blocks_is_refused() -> None:
    with pytest.raises(ValueError, match="num_blocks"):
        BlockManager(0)


class BlockManagerMachine(RuleBasedStateMachine):
    """Sequences over a small alphabet on a small pool.

    `written` is what a real pool would hold, slot by slot: the prefix that ends there. Every computed position of
    every sequence must find its own prefix in it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.manager = BlockManager(NUM_BLOCKS, BLOCK_LEN)
        self.written: dict[int, tuple[int, ...]] = {}
        self.sequences: dict[int, tuple[BlockTable, list[int], int]] = {}
        self.next_id = 0

    @rule(token_ids=st.lists(st.integers(0, 1), min_size=1, max_size=24))
    def open(self, token_ids: list[int]) -> None:
        table = BlockTable(BLOCK_LEN)
        num_reused = self.manager.reuse(table, token_ids, len(token_ids) - 1)
        assert num_reused < len(token_ids)
        if self.manager.num_missing_tokens(table, len(token_ids)) > self.manager.num_free_tokens:
            self.manager.free(table)
            return
        self.manager.grow(table, len(token_ids))
        self.sequences[self.next_id] = (table, token_ids, num_reused)
        self.next_id += 1

    @precondition(lambda self: self.sequences)
    @rule(data=st.data(), num_new=st.integers(1, 9))
    def compute(self, data: st.DataObject, num_new: int) -> None:
        sequence_id = data.draw(st.sampled_from(sorted(self.sequences)))
        table, token_ids, num_computed = self.sequences[sequence_id]
        end = min(len(token_ids), num_computed + num_new)
        slots = table.slots(end).tolist()
        for position in range(num_computed, end):
            self.written[slots[position]] = tuple(token_ids[: position + 1])
        self.manager.commit(table, token_ids, end)
        self.sequences[sequence_id] = (table, token_ids, end)

    @precondition(lambda self: self.sequences)
    @rule(data=st.data(), new=st.lists(st.integers(0, 1), max_size=6))
    def rewind(self, data: st.DataObject, new: list[int]) -> None:
        sequence_id = data.draw(st.sampled_from(sorted(self.sequences)))
        table, token_ids, num_computed = self.sequences[sequence_id]
        length = data.draw(st.integers(0, len(token_ids)))
        num_computed = min(num_computed, self.manager.truncate(table, length))
        token_ids = token_ids[:length] + new
        if self.manager.num_missing_tokens(table, len(token_ids)) > self.manager.num_free_tokens:
            self.manager.free(table)
            del self.sequences[sequence_id]
            return
        self.manager.grow(table, len(token_ids))
        self.sequences[sequence_id] = (table, token_ids, num_computed)

    @precondition(lambda self: self.sequences)
    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        table, _token_ids, _num_computed = self.sequences.pop(data.draw(st.sampled_from(sorted(self.sequences))))
        self.manager.free(table)

    @invariant()
    def every_computed_position_finds_its_own_prefix(self) -> None:
        for table, token_ids, num_computed in self.sequences.values():
            for position, slot in enumerate(table.slots(num_computed).tolist()):
                assert self.written[slot] == tuple(token_ids[: position + 1])

    @invariant()
    def nobody_writes_what_another_holds(self) -> None:
        holders: dict[int, int] = {}
        for table, _token_ids, _num_computed in self.sequences.values():
            for block_id in table.block_ids:
                assert block_id != PADDING_BLOCK
                holders[block_id] = holders.get(block_id, 0) + 1
        for table, _token_ids, num_computed in self.sequences.values():
            assert all(holders[block_id] == 1 for block_id in table.block_ids[num_computed // BLOCK_LEN :])

    @invariant()
    def used_blocks_are_those_that_somebody_holds(self) -> None:
        held = {block_id for table, _ids, _num in self.sequences.values() for block_id in table.block_ids}
        assert self.manager.num_used_tokens == len(held) * BLOCK_LEN

    def teardown(self) -> None:
        for table, _token_ids, _num_computed in self.sequences.values():
            self.manager.free(table)
        assert self.manager.num_used_tokens == 0
        self.manager.grow(BlockTable(BLOCK_LEN), NUM_BLOCKS * BLOCK_LEN)


TestBlockManagerMachine = BlockManagerMachine.TestCase
TestBlockManagerMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
