from __future__ import annotations

from services.engines.transformers.block_manager import BlockManager
from services.engines.transformers.scheduler import SHORT_LEN, Scheduler
from services.engines.transformers.sequence import CachedSequence

CHUNK_LEN = 64


def waiting(*num_pending: int) -> list[CachedSequence]:
    blocks = BlockManager(1000)
    sequences = []
    for sequence_id, num in enumerate(num_pending):
        sequence = CachedSequence(sequence_id, blocks)
        sequence.token_ids.extend(range(num))
        sequences.append(sequence)
    return sequences


def selected(scheduler: Scheduler[CachedSequence], due: list[CachedSequence]) -> list[tuple[int, int]]:
    return [(row.sequence.sequence_id, row.num_new) for row in scheduler.select(due)]


def test_nothing_due_selects_nothing() -> None:
    scheduler: Scheduler[CachedSequence] = Scheduler(4, CHUNK_LEN)
    assert scheduler.select([]) == []


def test_decoding_rows_share_one_pass() -> None:
    assert selected(Scheduler(4, CHUNK_LEN), waiting(1, 1, 1)) == [(0, 1), (1, 1), (2, 1)]


def test_more_rows_than_a_batch_take_turns() -> None:
    scheduler: Scheduler[CachedSequence] = Scheduler(2, CHUNK_LEN)
    due = waiting(1, 1, 1)
    seen = [row for _ in range(3) for row, _num in selected(scheduler, due)]
    assert sorted(seen) == [0, 0, 1, 1, 2, 2]


def test_long_rows_take_turns_with_short_ones() -> None:
    scheduler: Scheduler[CachedSequence] = Scheduler(4, CHUNK_LEN)
    due = waiting(1, 200)
    kinds = [selected(scheduler, due)[0][0] for _ in range(4)]
    assert kinds == [1, 0, 1, 0]


def test_long_row_is_cut_to_the_chunk() -> None:
    scheduler: Scheduler[CachedSequence] = Scheduler(4, CHUNK_LEN)
    (row,) = scheduler.select(waiting(200))
    assert (row.num_new, row.reaches_end) == (CHUNK_LEN, False)


def test_chunk_bounds_all_long_rows_of_a_pass_together() -> None:
    assert selected(Scheduler(8, CHUNK_LEN), waiting(20, 20, 20, 20)) == [(0, 20), (1, 20), (2, 20)]


def test_short_rows_of_any_length_share_one_pass() -> None:
    assert selected(Scheduler(8, CHUNK_LEN), waiting(SHORT_LEN, 1, 3)) == [(0, SHORT_LEN), (1, 1), (2, 3)]
