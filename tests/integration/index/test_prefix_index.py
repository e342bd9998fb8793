"""Prefix blocks in a real Redis."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from redis.asyncio import Redis

from services.orchestrator.index.prefix_index import IndexedPair, PrefixHits, PrefixIndex
from tests.integration.harness.indexes import PAIR, record, started_index
from tests.integration.harness.redis_fixture import RedisServer

pytestmark = pytest.mark.integration

PROMPT = list(range(100))
BLOCK_KEYS = "trivium:2:block:*"


@pytest.fixture
async def index(redis_server: RedisServer) -> AsyncIterator[PrefixIndex]:
    async with started_index(redis_server.url) as index:
        assert index.available
        yield index


async def test_lookup_recorded_prefix_counts_whole_blocks_per_replica(index: PrefixIndex) -> None:
    await record(index, "slm", "s1", PROMPT, 100)
    await record(index, "llm", "l1", PROMPT, 40)
    await record(index, "llm", "l:2", PROMPT, 64)
    commands = index.num_commands

    assert await index.lookup(PROMPT) == PrefixHits(slm={"s1": 96}, llm={"l1": 32, "l:2": 64})
    assert await index.lookup(PROMPT[:50] + [5] * 50) == PrefixHits(slm={"s1": 48}, llm={"l1": 32, "l:2": 48})
    assert await index.lookup([5, *PROMPT]) == PrefixHits()
    assert index.num_commands == commands + 3


async def test_lookup_shorter_than_a_block_needs_no_command(index: PrefixIndex) -> None:
    assert await index.lookup(PROMPT[:15]) == PrefixHits()
    assert index.num_commands == 0


@pytest.mark.parametrize(
    ("pair", "is_known"),
    [
        (replace(PAIR, models_identity=b"other models"), False),
        (replace(PAIR), True),
    ],
)
async def test_blocks_are_shared_by_pairs_of_the_same_models(
    index: PrefixIndex, redis_server: RedisServer, pair: IndexedPair, is_known: bool
) -> None:
    await record(index, "slm", "s1", PROMPT, 100)

    async with started_index(redis_server.url, pair=pair) as other:
        assert bool((await other.lookup(PROMPT)).slm) == is_known


async def test_record_is_seen_by_another_index(index: PrefixIndex, redis_server: RedisServer) -> None:
    await record(index, "llm", "l1", PROMPT, 64)

    async with started_index(redis_server.url) as other:
        assert await other.lookup(PROMPT) == PrefixHits(llm={"l1": 64})


async def test_record_long_prefix_is_found_whole(redis_server: RedisServer) -> None:
    token_ids = list(range(32_768))

    async with started_index(redis_server.url, timeout_s=5) as index:
        await record(index, "llm", "l1", token_ids, len(token_ids))

        assert await index.lookup(token_ids) == PrefixHits(llm={"l1": 32_768})
        assert index.num_commands <= 3
        assert index.num_failures == 0


async def test_blocks_unused_for_the_ttl_are_forgotten(redis_server: RedisServer) -> None:
    async with started_index(redis_server.url, ttl_s=1) as index:
        await record(index, "slm", "old", PROMPT, 96)
        await asyncio.sleep(0.6)
        # Keeps the blocks, but doesn't count as a use by the other replica.
        await record(index, "slm", "new", PROMPT, 96)
        await asyncio.sleep(0.6)

        assert await index.lookup(PROMPT) == PrefixHits(slm={"new": 96})
        await asyncio.sleep(0.7)
        assert await index.lookup(PROMPT) == PrefixHits()


async def test_drop_replica_voids_what_it_held_and_nothing_else(index: PrefixIndex) -> None:
    await record(index, "slm", "a", PROMPT, 96)
    await record(index, "llm", "a", PROMPT, 96)
    await record(index, "slm", "b", PROMPT, 48)

    await index.drop_replica("slm", "a")

    assert await index.lookup(PROMPT) == PrefixHits(slm={"b": 48}, llm={"a": 96})


async def test_dropped_replica_that_records_again_counts_from_then_on(index: PrefixIndex) -> None:
    await record(index, "slm", "a", PROMPT, 96)
    await index.drop_replica("slm", "a")

    await record(index, "slm", "a", PROMPT, 32)

    assert await index.lookup(PROMPT) == PrefixHits(slm={"a": 32})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("foreign", "{now}"),
        ("", "{now}"),
        ("gpu:a", "{now}"),
        ("slm:", "{now}"),
        (b"slm:\xff", "{now}"),
        ("slm:b", "x"),
        ("slm:b", "nan"),
        ("slm:b", "inf"),
        ("slm:b", "-1"),
        ("slm:b", "1" + 30 * "0"),
    ],
)
async def test_block_with_a_field_that_isnt_the_indexs_is_read_without_it(
    index: PrefixIndex, redis_server: RedisServer, field: str | bytes, value: str
) -> None:
    await record(index, "slm", "a", PROMPT, 96)
    async with Redis.from_url(redis_server.url) as owner:
        seconds, _ = await owner.time()
        for key in await owner.keys(BLOCK_KEYS):
            await owner.hset(key, field, value.format(now=seconds * 1_000_000))

    assert await index.lookup(PROMPT) == PrefixHits(slm={"a": 96})
    assert index.num_damaged >= 1
    assert (index.available, index.num_failures) == (True, 0)


@pytest.mark.parametrize("keys", [BLOCK_KEYS, "trivium:2:dropped"])
async def test_key_of_another_type_counts_for_nothing_and_is_replaced(
    index: PrefixIndex, redis_server: RedisServer, keys: str
) -> None:
    await record(index, "slm", "a", PROMPT, 96)
    await index.drop_replica("slm", "b")
    async with Redis.from_url(redis_server.url) as owner:
        for key in await owner.keys(keys):
            await owner.set(key, "something else")

    hits = await index.lookup(PROMPT)

    assert hits == (PrefixHits() if keys == BLOCK_KEYS else PrefixHits(slm={"a": 96}))
    assert index.num_damaged == 1
    await index.drop_replica("slm", "a")
    await record(index, "slm", "c", PROMPT, 96)
    assert await index.lookup(PROMPT) == PrefixHits(slm={"c": 96})
    assert (index.available, index.num_failures, index.num_damaged) == (True, 0, 1)
