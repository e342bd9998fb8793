from __future__ import annotations

import asyncio

import pytest
from trivium.v1 import router_pb2

from services.common.errors import CapacityExceeded, InvalidRequest
from services.common.serving.duplex import Outbox


def _response(batch_id: int) -> router_pb2.ScoreResponse:
    return router_pb2.ScoreResponse(batch_id=batch_id)


async def test_get_returns_responses_in_order_then_none() -> None:
    outbox: Outbox[router_pb2.ScoreResponse] = Outbox(1000)
    for batch_id in (1, 2, 3):
        outbox.put(_response(batch_id))
    outbox.finish()
    outbox.put(_response(4))
    received = [await outbox.get() for _ in range(4)]
    assert [response.batch_id if response else None for response in received] == [1, 2, 3, None]


async def test_get_waits_for_a_response() -> None:
    outbox: Outbox[router_pb2.ScoreResponse] = Outbox(1000)
    getting = asyncio.create_task(outbox.get())
    await asyncio.sleep(0)
    assert not getting.done()
    outbox.put(_response(7))
    assert (await getting) == _response(7)


async def test_finish_with_error_fails_at_once_and_the_first_end_counts() -> None:
    outbox: Outbox[router_pb2.ScoreResponse] = Outbox(1000)
    outbox.put(_response(1))
    outbox.finish(InvalidRequest("x"))
    outbox.finish(CapacityExceeded("y"))
    with pytest.raises(InvalidRequest):
        await outbox.failure


async def test_put_beyond_the_limit_ends_the_stream_resource_exhausted() -> None:
    outbox: Outbox[router_pb2.ScoreResponse] = Outbox(5)
    outbox.put(_response(1))
    outbox.put(_response(2))
    outbox.put(_response(3))
    with pytest.raises(CapacityExceeded, match="too slowly"):
        await outbox.failure


async def test_put_one_response_beyond_the_limit_is_sent() -> None:
    outbox: Outbox[router_pb2.ScoreResponse] = Outbox(1)
    for batch_id in (1, 2):
        outbox.put(_response(batch_id))
        assert await outbox.get() == _response(batch_id)
