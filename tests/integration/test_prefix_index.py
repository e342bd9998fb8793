"""The prefix index against a real Redis, with faults."""

import asyncio
import logging
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from redis.asyncio import Redis

from services.orchestrator.index.prefix_index import Placement, PrefixHits, PrefixIndex, SequenceLocation
from services.orchestrator.index.token_log import LogBatch
from services.orchestrator.routing.actions import AcceptedToken, Source
from tests.integration.redis_fixture import RedisServer

pytestmark = pytest.mark.integration

PAIR = b"pair"
PROMPT = list(range(100))
# A busy machine adds to the 50 ms that a call may wait.
# Above the timeout that the tests use.
CALL_LIMIT_S = 2.5

TOKENS = [AcceptedToken(7, Source.SLM, 0.25), AcceptedToken(4_000_000_000, Source.LLM, 0.75)]
MORE_TOKENS = [AcceptedToken(9, Source.SLM, 0.0)]


@asynccontextmanager
async def started_index(url: str | None, **options: Any) -> AsyncIterator[PrefixIndex]:
    # A busy machine can keep an answer waiting for longer than the default allows.
    index = PrefixIndex(url, pair_identity=PAIR, **{"timeout_ms": 1000, **options})
    await index.start()
    try:
        yield index
    finally:
        await index.close()


@pytest.fixture
async def index(redis_server: RedisServer) -> AsyncIterator[PrefixIndex]:
    async with started_index(redis_server.url) as index:
        assert index.available
        yield index


async def until_available(index: PrefixIndex, limit_s: float) -> float:
    start = time.monotonic()
    while not index.available:
        assert time.monotonic() - start < limit_s, "the index isn't back in time"
        await asyncio.sleep(0.01)
    return time.monotonic() - start


async def assert_knows_nothing(index: PrefixIndex) -> float:
    """Calls every method, and returns how long the slowest took, in seconds."""

    async def timed(call: Awaitable[object], expected: object) -> float:
        start = time.monotonic()
        assert await call == expected
        return time.monotonic() - start

    return max(
        [
            await timed(index.lookup(PROMPT), PrefixHits()),
            await timed(index.record("slm", "a", 1, PROMPT, 100), None),
            await timed(index.locate(1), SequenceLocation()),
            await timed(index.forget(1), None),
            await timed(index.drop_replica("slm", "a"), None),
            await timed(index.append_logs([LogBatch("r", b"f", 0, TOKENS)]), None),
            await timed(index.read_log("r"), None),
            await timed(index.close_log("r"), None),
        ]
    )


async def test_lookup_recorded_prefix_counts_whole_blocks_per_replica(index: PrefixIndex) -> None:
    await index.record("slm", "s1", 1, PROMPT, 100)
    await index.record("llm", "l1", 1, PROMPT, 40)
    await index.record("llm", "l:2", 1, PROMPT, 64)
    commands = index.num_commands

    assert await index.lookup(PROMPT) == PrefixHits(slm={"s1": 96}, llm={"l1": 32, "l:2": 64})
    assert await index.lookup(PROMPT[:50] + [5] * 50) == PrefixHits(slm={"s1": 48}, llm={"l1": 32, "l:2": 48})
    assert await index.lookup([5, *PROMPT]) == PrefixHits()
    assert index.num_commands == commands + 3


async def test_lookup_shorter_than_a_block_needs_no_command(index: PrefixIndex) -> None:
    assert await index.lookup(PROMPT[:15]) == PrefixHits()
    assert index.num_commands == 0


async def test_lookup_other_pair_finds_nothing(index: PrefixIndex, redis_server: RedisServer) -> None:
    await index.record("slm", "s1", 1, PROMPT, 100)

    other = PrefixIndex(redis_server.url, pair_identity=b"other")
    await other.start()
    hits = await other.lookup(PROMPT)
    await other.close()

    assert hits == PrefixHits()


async def test_record_is_seen_by_another_index(index: PrefixIndex, redis_server: RedisServer) -> None:
    await index.record("llm", "l1", 17, PROMPT, 64)

    async with started_index(redis_server.url) as other:
        assert await other.lookup(PROMPT) == PrefixHits(llm={"l1": 64})
        assert await other.locate(17) == SequenceLocation(llm=Placement("l1", 64))


async def test_record_long_prefix_in_one_command(redis_server: RedisServer) -> None:
    token_ids = list(range(32_768))

    async with started_index(redis_server.url, timeout_ms=5_000) as index:
        await index.record("llm", "l1", 1, token_ids, len(token_ids))

        assert await index.lookup(token_ids) == PrefixHits(llm={"l1": 32_768})
        assert index.num_commands == 2
        assert index.num_failures == 0


async def test_blocks_and_locations_unused_for_the_ttl_are_forgotten(redis_server: RedisServer) -> None:
    async with started_index(redis_server.url, ttl_s=1) as index:
        await index.record("slm", "old", 1, PROMPT, 96)
        await asyncio.sleep(0.6)
        # Keeps the blocks, but doesn't count as a use by the other replica.
        await index.record("slm", "new", 2, PROMPT, 96)
        await asyncio.sleep(0.6)

        assert await index.lookup(PROMPT) == PrefixHits(slm={"new": 96})
        assert await index.locate(1) == SequenceLocation()
        assert await index.locate(2) == SequenceLocation(slm=Placement("new", 96))
        await asyncio.sleep(0.7)
        assert await index.lookup(PROMPT) == PrefixHits()


async def test_locate_follows_the_last_record_until_forgotten(index: PrefixIndex) -> None:
    await index.record("slm", "s1", 2**64 - 1, PROMPT, 10)
    await index.record("llm", "l1", 2**64 - 1, PROMPT, 20)
    await index.record("llm", "l 2", 2**64 - 1, PROMPT, 30)

    expected = SequenceLocation(slm=Placement("s1", 10), llm=Placement("l 2", 30))
    assert await index.locate(2**64 - 1) == expected

    await index.forget(2**64 - 1)

    assert await index.locate(2**64 - 1) == SequenceLocation()


async def test_drop_replica_voids_what_it_held_and_nothing_else(index: PrefixIndex) -> None:
    await index.record("slm", "a", 1, PROMPT, 96)
    await index.record("llm", "a", 1, PROMPT, 96)
    await index.record("slm", "b", 2, PROMPT, 48)

    await index.drop_replica("slm", "a")

    assert await index.lookup(PROMPT) == PrefixHits(slm={"b": 48}, llm={"a": 96})
    assert await index.locate(1) == SequenceLocation(llm=Placement("a", 96))
    assert await index.locate(2) == SequenceLocation(slm=Placement("b", 48))


async def test_dropped_replica_that_records_again_counts_from_then_on(index: PrefixIndex) -> None:
    await index.record("slm", "a", 1, PROMPT, 96)
    await index.drop_replica("slm", "a")

    await index.record("slm", "a", 2, PROMPT, 32)

    assert await index.lookup(PROMPT) == PrefixHits(slm={"a": 32})
    assert await index.locate(2) == SequenceLocation(slm=Placement("a", 32))
    assert await index.locate(1) == SequenceLocation()


async def test_log_batches_appended_twice_or_overlapping_read_once(index: PrefixIndex) -> None:
    await index.append_logs([LogBatch("r", b"print", 0, TOKENS)])
    await index.append_logs([LogBatch("r", b"print", 2, MORE_TOKENS)])
    await index.append_logs([LogBatch("r", b"print", 0, TOKENS)])
    await index.append_logs([LogBatch("r", b"print", 1, TOKENS[1:] + MORE_TOKENS)])

    log = await index.read_log("r")

    assert log is not None
    assert log.fingerprint == b"print"
    assert list(log.tokens) == TOKENS + MORE_TOKENS


async def test_log_with_a_lost_batch_ends_before_it(index: PrefixIndex) -> None:
    await index.append_logs([LogBatch("r", b"print", 0, TOKENS)])
    await index.append_logs([LogBatch("r", b"print", 3, MORE_TOKENS)])

    log = await index.read_log("r")

    assert log is not None
    assert list(log.tokens) == TOKENS


async def test_log_of_another_request_with_the_same_id_replaces_it(index: PrefixIndex) -> None:
    await index.append_logs([LogBatch("r", b"one", 0, TOKENS)])
    await index.append_logs([LogBatch("r", b"two", 0, MORE_TOKENS)])

    log = await index.read_log("r")

    assert log is not None
    assert log.fingerprint == b"two"
    assert list(log.tokens) == MORE_TOKENS


async def test_log_of_a_request_that_begins_anew_holds_nothing_of_its_earlier_life(index: PrefixIndex) -> None:
    await index.append_logs([LogBatch("r", b"print", 0, TOKENS)])
    await index.append_logs([LogBatch("r", b"print", 2, MORE_TOKENS)])
    await index.append_logs([LogBatch("r", b"print", 0, MORE_TOKENS)])
    log = await index.read_log("r")
    assert log is not None
    assert list(log.tokens) == MORE_TOKENS


async def test_log_of_another_pair_is_another_requests_log(index: PrefixIndex, redis_server: RedisServer) -> None:
    await index.append_logs([LogBatch("r", b"print", 0, TOKENS)])
    async with started_index(redis_server.url) as other:
        other.pair_identity = b"other"
        log = await other.read_log("r")
        assert log is not None
        assert log.fingerprint != b"print"
        await other.append_logs([LogBatch("r", b"print", 0, MORE_TOKENS)])
        log = await other.read_log("r")
        assert log is not None
        assert (log.fingerprint, list(log.tokens)) == (b"print", MORE_TOKENS)


async def test_log_closed_or_unknown_reads_none(index: PrefixIndex) -> None:
    await index.append_logs([LogBatch("r", b"one", 0, TOKENS)])
    await index.close_log("r")

    assert await index.read_log("r") is None
    assert await index.read_log("unknown") is None


async def test_log_not_appended_to_for_its_ttl_is_forgotten(redis_server: RedisServer) -> None:
    async with started_index(redis_server.url, log_ttl_s=1) as index:
        await index.append_logs([LogBatch("r", b"one", 0, TOKENS)])
        await asyncio.sleep(1.1)

        assert await index.read_log("r") is None


async def test_index_without_url_knows_nothing_and_runs_no_command() -> None:
    async with started_index(None) as index:
        assert await assert_knows_nothing(index) < CALL_LIMIT_S
        assert (index.available, index.num_commands, index.num_failures) == (False, 0, 0)


@pytest.mark.parametrize("url", ["http://secret@host", "redis://:pa/secret@host:port", "redis://secret:70000x/0"])
def test_index_with_unreadable_url_raises_without_the_password(url: str) -> None:
    with pytest.raises(ValueError, match="redis_url") as raised:
        PrefixIndex(url, pair_identity=PAIR)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(("password", "is_available"), [("pass word@:/%", True), ("another", False), (None, False)])
async def test_redis_with_a_password_takes_that_alone(
    redis_server: RedisServer, password: str | None, is_available: bool
) -> None:
    async with Redis.from_url(redis_server.url) as owner:
        await owner.config_set("requirepass", "pass word@:/%")
    async with started_index(redis_server.url, password=password) as index:
        assert index.available is is_available


async def test_redis_killed_and_restarted_in_use_raises_nothing_and_is_used_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "services.orchestrator")
    stop = asyncio.Event()
    slowest_s = 0.0

    async def use(index: PrefixIndex, sequence_id: int) -> None:
        nonlocal slowest_s
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: index.record("slm", "a", sequence_id, PROMPT, 100),
            lambda: index.lookup(PROMPT),
            lambda: index.append_logs([LogBatch(f"r{sequence_id}", b"f", 0, TOKENS)]),
            lambda: index.locate(sequence_id),
        ]
        while not stop.is_set():
            for call in calls:
                start = time.monotonic()
                await call()
                slowest_s = max(slowest_s, time.monotonic() - start)
            await asyncio.sleep(0.005)

    with RedisServer() as server:
        async with started_index(server.url.replace("//", "//default:secret@")) as index:
            users = [asyncio.create_task(use(index, sequence_id)) for sequence_id in range(16)]
            await asyncio.sleep(0.2)
            os.kill(server.pid, signal.SIGKILL)
            await asyncio.sleep(0.5)
            assert not index.available
            assert index.num_failures >= 1
            commands = index.num_commands

            with RedisServer(server.port):
                await until_available(index, limit_s=10)
                await asyncio.sleep(0.2)
                assert index.num_commands > commands
                assert await index.lookup(PROMPT) == PrefixHits(slm={"a": 96})
                stop.set()
                await asyncio.gather(*users)

    assert slowest_s < CALL_LIMIT_S
    messages = [record.getMessage() for record in caplog.records]
    assert sum("is away" in message for message in messages) == 1
    assert sum("answers again" in message for message in messages) == 1
    assert "secret" not in caplog.text


async def test_redis_that_hangs_bounds_every_call_and_mixes_up_no_replies(redis_server: RedisServer) -> None:
    async with started_index(redis_server.url) as index:
        await index.record("slm", "a", 1, PROMPT, 96)
        await index.append_logs([LogBatch("r", b"f", 0, TOKENS)])

        failures = index.num_failures
        os.kill(redis_server.pid, signal.SIGSTOP)
        start = time.monotonic()
        hits = await asyncio.gather(*[index.lookup(PROMPT) for _ in range(40)])
        first_s = time.monotonic() - start
        slowest_s = await assert_knows_nothing(index)
        commands = index.num_commands
        await index.lookup(PROMPT)
        commands_while_open = index.num_commands - commands
        os.kill(redis_server.pid, signal.SIGCONT)

        assert hits == [PrefixHits()] * 40
        assert first_s < CALL_LIMIT_S
        assert slowest_s < CALL_LIMIT_S
        assert commands_while_open == 0
        assert index.num_failures == failures + 1
        await until_available(index, limit_s=10)
        replies = await asyncio.gather(
            *[index.lookup(PROMPT) for _ in range(20)], index.locate(1), index.read_log("r")
        )
        assert replies[:20] == [PrefixHits(slm={"a": 96})] * 20
        assert replies[20] == SequenceLocation(slm=Placement("a", 96))
        assert replies[21] is not None


async def test_redis_that_comes_late_is_found() -> None:
    with RedisServer() as server:
        port = server.port
    async with started_index(f"redis://127.0.0.1:{port}/0") as index:
        assert not index.available
        with RedisServer(port):
            await until_available(index, limit_s=10)
            await index.record("slm", "a", 1, PROMPT, 96)
            assert await index.lookup(PROMPT) == PrefixHits(slm={"a": 96})


async def test_call_cancelled_in_flight_leaves_the_index_in_use(redis_server: RedisServer) -> None:
    async with started_index(redis_server.url) as index:
        await index.record("slm", "a", 1, PROMPT, 96)
        for _ in range(20):
            call = asyncio.create_task(index.locate(1))
            await asyncio.sleep(0)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call

        assert await index.lookup(PROMPT) == PrefixHits(slm={"a": 96})
        assert index.num_failures == 0
