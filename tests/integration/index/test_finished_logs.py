"""The prefix index of running orchestrators: whole logs, and a Redis that can't be used."""

from __future__ import annotations

import asyncio
import uuid

import pytest
from redis.asyncio import Redis
from trivium.v1 import orchestrator_pb2

from tests.integration.harness.completions import client, generate
from tests.integration.harness.finished_logs import assert_log_is_whole
from tests.integration.harness.pair import RunningPair, front_info

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]


def request(number: int) -> orchestrator_pb2.GenerateRequest:
    return orchestrator_pb2.GenerateRequest(
        request_id=f"{number}-{uuid.uuid4().hex}",
        text=f"Ann has {number} stones and buys 6 more. How many has she now?",
        max_new_tokens=20 + number,
        threshold=(0.0, 0.3, 1.5)[number % 3],
    )


async def test_log_of_every_finished_request_is_what_its_client_got(pair: RunningPair) -> None:
    async with client(pair.front) as stub, Redis.from_url(pair.redis.url) as redis:

        async def compare(number: int) -> None:
            asked = request(number)
            answer = await generate(stub, asked)
            await assert_log_is_whole(redis, asked.request_id, answer.token_ids)

        await asyncio.gather(*[compare(number) for number in range(12)])


async def test_redis_that_cant_be_used_is_told_with_the_reason_and_requests_go_on(pair: RunningPair) -> None:
    url = pair.redis.url.replace("redis://", "redis://:secret@")
    async with pair.running_orchestrator("refused", "--redis-url", url) as front, client(front) as stub:
        answer = await generate(stub, request(0))
        load = (await front_info(front)).load

    assert len(answer.token_ids) > 0
    assert (load.prefix_index_available, load.prefix_index_problem) == (False, "wrong password")
    assert (await front_info(pair.front)).load.prefix_index_problem == ""
