"""The reader that takes part in measurements, before a real gateway and a scripted orchestrator."""

import pytest

from evaluation.speed.raw_http import Connection
from tests.unit.gateway.scripted import ScriptedOrchestrator, says, serving


async def test_reading_counts_tokens_and_messages_of_each_request_on_one_connection() -> None:
    async with serving(ScriptedOrchestrator(says("\ndata: {}, so it is", size=4))) as running:
        async with Connection.open(f"127.0.0.1:{running.port}") as connection:
            readings = [await connection.complete([1, 2, 3], max_tokens=64) for _ in range(2)]
        requests = running.orchestrator.requests
    assert [reading.num_tokens for reading in readings] == [19, 19]
    # Five with text, and one with the end.
    assert [reading.num_messages for reading in readings] == [6, 6]
    assert all(reading.first_token_s > 0 for reading in readings)
    assert [list(request.token_ids.token_ids) for request in requests] == [[1, 2, 3]] * 2
    assert {request.max_new_tokens for request in requests} == {64}


async def test_refusal_is_no_reading() -> None:
    async with serving() as running, Connection.open(f"127.0.0.1:{running.port}") as connection:
        with pytest.raises(ValueError, match=r"no answer but .*HTTP/1.1 400 .*prompt"):
            await connection.complete([], max_tokens=64)
