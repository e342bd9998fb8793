from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest

from evaluation.reference.pair import WEIGHTS_DIR
from labeler_jobs.models.huggingface import decode_text, render_prompt
from labeler_jobs.models.writer import GreedyWriter
from labeler_jobs.stages.responses import write_responses
from labeler_jobs.stages.schemas import QUERIES, RESPONSES
from services.common.text.tokenizer import load_tokenizer
from services.engines.base import EngineOptions
from services.engines.factory import create_slm_engine
from tests.unit.labeler_jobs.tiny import make_tokenizer

TOKENIZER = load_tokenizer(str(WEIGHTS_DIR / "llm"))
QUESTION = "Ann starts with 24 stones. On Monday she buys 6 stones. How many stones does Ann have now?"


@pytest.fixture(scope="module")
def writer() -> Iterator[GreedyWriter]:
    with GreedyWriter(create_slm_engine("transformers", EngineOptions(str(WEIGHTS_DIR / "llm"))), 4) as writer:
        yield writer


def answer(writer: GreedyWriter, queries: list[str], context_len: int, max_new_tokens: int) -> list[dict[str, Any]]:
    rows = [{"query_id": str(number), "domain": "math", "query": query} for number, query in enumerate(queries)]
    table = pa.Table.from_pylist(rows, schema=QUERIES)
    counted: list[int] = []
    batch = write_responses(table, TOKENIZER, writer, context_len, max_new_tokens, counted.append)
    responses: list[dict[str, Any]] = batch.to_pylist()
    assert batch.schema == RESPONSES
    assert sum(counted) == sum(len(row["response_token_ids"]) for row in responses)
    return responses


def test_responses_keep_their_thoughts_and_say_whether_they_ended(writer: GreedyWriter) -> None:
    [whole] = answer(writer, [QUESTION], 1024, 200)
    text = decode_text(TOKENIZER, whole["response_token_ids"])
    assert text.startswith("<think>")
    assert "The answer is" in text
    assert whole["finished"]
    [cut] = answer(writer, [QUESTION], 1024, 10)
    assert cut["response_token_ids"] == whole["response_token_ids"][:10]
    assert not cut["finished"]


def test_query_longer_than_the_context_is_kept_without_a_response(writer: GreedyWriter) -> None:
    context_len = len(render_prompt(TOKENIZER, QUESTION)) + 3
    short, long = answer(writer, [QUESTION, QUESTION * 2], context_len, 200)
    assert short["finished"]
    assert (long["response_token_ids"], long["finished"]) == ([], False)


def test_tokenizer_without_a_chat_template_is_refused() -> None:
    with pytest.raises(ValueError, match="chat_template"):
        render_prompt(make_tokenizer(), QUESTION)
