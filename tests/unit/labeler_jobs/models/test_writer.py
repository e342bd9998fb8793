from collections.abc import Iterator, Sequence

import pytest

from labeler_jobs.models.writer import GreedyWriter
from services.common.errors import CapacityExceeded, ContextLengthExceeded
from services.engines.base import EngineOptions
from services.engines.fakes import FakeSlmEngine, fake_next_token

PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12], [13, 14], [15, 16, 17]]
EOS = 0
CONTEXT_LEN = 256


@pytest.fixture
def writer() -> Iterator[GreedyWriter]:
    with GreedyWriter(FakeSlmEngine(EngineOptions("large", max_batch_size=2)), max_open=2) as writer:
        yield writer


def plain(prefix: Sequence[int], num_tokens: int) -> list[int]:
    written: list[int] = []
    while len(written) < num_tokens and EOS not in written:
        written.append(fake_next_token("large", [*prefix, *written]))
    return written


def test_more_rows_than_a_batch_holds_are_each_written_as_if_alone(writer: GreedyWriter) -> None:
    assert writer.write(PROMPTS, 12) == [plain(prompt, 12) for prompt in PROMPTS]
    assert writer.write([], 12) == []


def test_row_ends_after_the_end_of_sequence_token(writer: GreedyWriter) -> None:
    prefixes = [[first] for first in range(1, 100)]
    written = writer.write(prefixes, 60)
    assert written == [plain(prefix, 60) for prefix in prefixes]
    assert any(row[-1] == EOS and len(row) < 60 for row in written)


def test_should_stop_ends_its_row_alone(writer: GreedyWriter) -> None:
    written = writer.write(PROMPTS, 12, lambda row, token_ids: row == 1 and len(token_ids) == 4)
    assert written == [plain(prompt, 4 if row == 1 else 12) for row, prompt in enumerate(PROMPTS)]


def test_row_ends_where_the_context_does() -> None:
    with GreedyWriter(FakeSlmEngine(EngineOptions("large")), max_open=4, context_len=10) as writer:
        assert writer.write([[5, 6, 7], [8] * 9], 100) == [plain([5, 6, 7], 7), plain([8] * 9, 1)]
        with pytest.raises(ContextLengthExceeded, match="prefixes: 10 tokens leave no room in a context of 10"):
            writer.write([[8] * 10], 100)


def test_trunks_run_before_their_rows_and_add_nothing_to_them(writer: GreedyWriter) -> None:
    trunk = PROMPTS[2] * 8
    prefixes = [[1, 2], [*trunk, 3], [*trunk[:20], 4], [*trunk[:9], 5], [6, 7]]
    counted: list[int] = []
    written = writer.write(prefixes, 6, trunks={1: [trunk, [7, 8]], 4: ()}, on_tokens=counted.append)
    assert written == [plain(prefix, 6) for prefix in prefixes]
    assert sum(counted) == sum(map(len, written))


def test_kv_budget_too_small_for_all_rows_still_writes_them_all() -> None:
    options = EngineOptions("large", max_batch_size=8, kv_cache_tokens=40)
    with GreedyWriter(FakeSlmEngine(options), max_open=8) as writer:
        prefixes = [[first] * 15 for first in range(1, 9)]
        assert writer.write(prefixes, 6) == [plain(prefix, 6) for prefix in prefixes]


def test_row_that_outgrows_the_budget_is_an_error_and_not_a_short_answer() -> None:
    options = EngineOptions("large", kv_cache_tokens=8)
    with GreedyWriter(FakeSlmEngine(options), max_open=2, context_len=20) as writer:
        with pytest.raises(CapacityExceeded, match=r"^kv_cache_tokens: .* 8 tokens"):
            writer.write([[1] * 5], 10)
        assert writer.write([[1] * 5], 3) == [plain([1] * 5, 3)]


def test_row_that_no_budget_holds_is_an_error() -> None:
    with GreedyWriter(FakeSlmEngine(EngineOptions("large", kv_cache_tokens=8)), max_open=2) as writer:
        with pytest.raises(ContextLengthExceeded, match="context of 8"):
            writer.write([[1], [2] * 9], 3)
        assert writer.write([[1]], 3) == [plain([1], 3)]
