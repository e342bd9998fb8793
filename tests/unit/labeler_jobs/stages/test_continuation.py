from collections.abc import Iterator, Sequence

import pyarrow as pa
import pytest

from labeler_jobs.models.huggingface import decode_text
from labeler_jobs.models.writer import GreedyWriter
from labeler_jobs.stages.continuation import Forked, continue_sentences
from labeler_jobs.text.sentence import sentence_end
from services.engines.base import EngineOptions
from services.engines.factory import create_slm_engine
from tests.unit.labeler_jobs.tiny import EOS, make_model, make_tokenizer

STOP = 6
"""The token "stop."; what follows it ends the sentence."""
CONTEXT_LEN = 64
CACHE_TOKENS = 4096
FORKED = [
    Forked("a", [2, 3], [4, 5, 7, 8, 9, 2, 3, 1], [(position, token) for position in range(7) for token in (3, 8)]),
    Forked("b", [5], [2, 3], []),
    Forked("c", [7, 8, 9], [2, 6, 4, 1], [(1, EOS), (2, 7), (3, STOP)]),
]


def rows_of(forked: Sequence[Forked], writer: GreedyWriter, limits: tuple[int, int, int]) -> pa.RecordBatch:
    return continue_sentences(forked, make_tokenizer(), writer, *limits, lambda num_tokens: None)


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GreedyWriter]:
    folder = tmp_path_factory.mktemp("llm")
    make_model(seed=5).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    with GreedyWriter(create_slm_engine("transformers", EngineOptions(str(folder), max_batch_size=4)), 4) as writer:
        yield writer


def test_continuations_are_what_the_llm_writes_until_the_sentence_ends(writer: GreedyWriter) -> None:
    tokenizer = make_tokenizer()
    rows = continue_sentences(
        FORKED, tokenizer, writer, CONTEXT_LEN, 12, CACHE_TOKENS, lambda num_tokens: None
    ).to_pylist()
    assert [(row["query_id"], row["position"], row["slm_token_id"]) for row in rows] == [
        (forked.query_id, *fork) for forked in FORKED for fork in forked.forks
    ]
    by_id = {forked.query_id: forked for forked in FORKED}
    for row in rows:
        forked, written = by_id[row["query_id"]], row["continuation_token_ids"]
        prefix = [*forked.prompt, *forked.response[: row["position"]], row["slm_token_id"]]
        if written:
            assert writer.write([prefix], len(written)) == [written]
        assert EOS not in written[:-1]
        if row["ended"] == "limit":
            assert len(written) == 12
        elif row["ended"] == "eos":
            assert row["slm_token_id"] == EOS or written[-1] == EOS
        else:
            text = decode_text(tokenizer, [row["slm_token_id"], *written])
            assert sentence_end(text) is not None or row["slm_token_id"] == STOP
    assert {row["ended"] for row in rows} == {"sentence", "eos", "limit"}


def test_fork_that_ends_the_response_or_the_context_is_not_continued(writer: GreedyWriter) -> None:
    forked = [Forked("a", [2, 3], [4, 5, 7], [(1, EOS), (2, 8)])]
    rows = continue_sentences(
        forked, make_tokenizer(), writer, 5, 12, CACHE_TOKENS, lambda num_tokens: None
    ).to_pylist()
    assert [(row["ended"], row["continuation_token_ids"]) for row in rows] == [("eos", []), ("limit", [])]


def test_same_forks_give_the_same_rows_whatever_was_written_before(writer: GreedyWriter) -> None:
    once, _, again = (
        rows_of(forked, writer, (CONTEXT_LEN, 12, CACHE_TOKENS)) for forked in (FORKED, FORKED[2:], FORKED)
    )
    assert once.equals(again)


def test_cache_that_holds_one_response_at_a_time_changes_no_row(writer: GreedyWriter) -> None:
    rows = [rows_of(FORKED, writer, (CONTEXT_LEN, 12, cache_tokens)) for cache_tokens in (2, CACHE_TOKENS)]
    assert rows[0].to_pylist() == rows[1].to_pylist()


def test_forks_of_a_response_find_their_prefix_in_the_cache(writer: GreedyWriter) -> None:
    response = [2, 3, 4, 5, 7, 8, 9] * 6
    forks = [(position, token) for position in range(20, 42) for token in (2, 3, 4) if response[position] != token]
    before = writer.num_tokens_processed
    rows = rows_of([Forked("a", [2], response, forks)], writer, (CONTEXT_LEN, 1, CACHE_TOKENS))
    num_processed = writer.num_tokens_processed - before
    num_prefix_tokens = sum(position + 2 for position, _ in forks)
    assert rows.num_rows == len(forks) > 40
    assert num_processed < len(response) + 16 * len(forks) + len(forks) < num_prefix_tokens
