from __future__ import annotations

import asyncio

import pytest

pytest.importorskip("services.engines.sglang", exc_type=ModuleNotFoundError)
from services.engines.sglang.chunks import PROGRESS, Chunk, pack_news, pack_output, pack_trouble, unpack_chunk
from services.engines.sglang.frames import read_frame
from services.engines.sglang.rows import ROWS_KEY, pack_row
from services.engines.sglang.troubles import Trouble


async def unpacked(frame: bytes) -> Chunk:
    reader = asyncio.StreamReader()
    reader.feed_data(frame)
    return unpack_chunk(*await read_frame(reader))


async def test_output_comes_back_as_a_chunk() -> None:
    meta = {
        "finish_reason": {"type": "length", "length": 2},
        "prompt_tokens": 7,
        "cached_tokens": 3,
        "input_top_logprobs": [None, [(-0.1, 11, None)], [(-0.2, 12, None)]],
        ROWS_KEY: [pack_row(1, 2, None), pack_row(2, 4, None)],
    }
    chunk = await unpacked(pack_output("0a", {"output_ids": [5, 6], "meta_info": meta}))
    assert (chunk.request_id, chunk.token_ids, chunk.choices) == ("0a", [5, 6], [11, 12])
    assert (chunk.num_prompt_tokens, chunk.num_cached_tokens, chunk.is_last) == (7, 3, True)
    assert [row.num_rows for row in chunk.rows] == [2, 4]
    assert chunk.trouble is None


@pytest.mark.parametrize(
    ("status_code", "trouble"),
    [(None, Trouble.PASSES), (503, Trouble.PASSES), (500, Trouble.PASSES), (400, Trouble.REFUSED)],
)
async def test_aborted_output_comes_back_as_trouble(status_code: int | None, trouble: Trouble) -> None:
    reason = {"type": "abort", "message": "The request queue is full.", "status_code": status_code}
    # SGLang leaves the counts out where a request never ran.
    chunk = await unpacked(pack_output("0a", {"output_ids": [], "meta_info": {"finish_reason": reason}}))
    assert (chunk.trouble, chunk.message) == (trouble, "The request queue is full.")


async def test_trouble_and_news_come_back() -> None:
    chunk = await unpacked(pack_trouble("0a", Trouble.FAULT, "broken"))
    assert (chunk.request_id, chunk.trouble, chunk.message) == ("0a", Trouble.FAULT, "broken")
    assert await unpacked(pack_news(PROGRESS)) == Chunk(PROGRESS)
