"""Token logs in a real Redis: what a resumed stream goes on from, through every loss."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from services.orchestrator.index.command_link import Command
from services.orchestrator.index.prefix_index import PrefixIndex
from services.orchestrator.index.redis_link import RedisLink
from services.orchestrator.index.token_log import TokenLog
from services.orchestrator.index.writer import IndexWriter
from services.orchestrator.routing.actions import AcceptedToken
from tests import serving
from tests.integration.harness.indexes import PAIR, record, started_index, until_available
from tests.integration.harness.redis_fixture import RedisServer
from tests.unit.orchestrator.index.fakes import FakeSequence, make_sequence, make_tokens

pytestmark = pytest.mark.integration

INTERVAL_S = 0.01
PROMPT = list(range(48))
LOG_KEY = "trivium:2:log:r1"
TOKENS = make_tokens(20)


@pytest.fixture
async def index(redis_server: RedisServer) -> AsyncIterator[PrefixIndex]:
    async with started_index(redis_server.url) as index:
        yield index


@pytest.fixture(scope="module")
def shared_server() -> Iterator[RedisServer]:
    """For examples of hypothesis, which empty it themselves."""
    with RedisServer() as server:
        yield server


@asynccontextmanager
async def running_writer(index: PrefixIndex, interval_s: float = INTERVAL_S) -> AsyncIterator[IndexWriter]:
    writer = IndexWriter(index, interval_s)
    running = asyncio.create_task(writer.run())
    yield writer
    running.cancel()
    await asyncio.wait({running})


async def until(condition: Callable[[], Any]) -> None:
    await serving.until(condition, timeout_s=20)


async def append(
    index: PrefixIndex, tokens: Sequence[AcceptedToken], *, after: Sequence[AcceptedToken] = (), **options: Any
) -> bool | None:
    """Appends to the log of request r1, as a writer that has written `after`."""
    cursor = index.log_cursor("r1", b"print", after)
    return (await index.append_logs([cursor.batch([*after, *tokens])], **options))[0]


async def read(index: PrefixIndex, max_tokens: int = 1000) -> list[AcceptedToken] | None:
    log = await index.read_log("r1", b"print", max_tokens)
    return None if log is None else list(log.tokens)


async def logged(index: PrefixIndex, sequence: FakeSequence) -> list[AcceptedToken]:
    """What the log of a sequence holds."""
    log = await index.read_log(sequence.task.request_id, sequence.task.fingerprint(), 100_000)
    return list(log.tokens) if log else []


async def test_batches_that_follow_each_other_or_overlap_read_once(index: PrefixIndex) -> None:
    assert await append(index, TOKENS[:5])
    assert await append(index, TOKENS[5:9], after=TOKENS[:5])
    assert await append(index, TOKENS[5:12], after=TOKENS[:5])
    assert await append(index, [], after=TOKENS[:12])

    assert await read(index) == TOKENS[:12]
    assert await read(index, max_tokens=7) == TOKENS[:7]


async def test_batch_after_what_the_log_doesnt_hold_is_refused(index: PrefixIndex) -> None:
    assert await append(index, TOKENS[5:9], after=TOKENS[:5]) is False
    assert await read(index) is None
    await append(index, TOKENS[:3])
    assert await append(index, TOKENS[5:9], after=TOKENS[:5]) is False
    assert await append(index, [], after=TOKENS[:5]) is False
    assert await read(index) == TOKENS[:3]


async def test_batch_of_another_life_of_the_request_is_refused(index: PrefixIndex) -> None:
    other = [replace(TOKENS[0], score=0.5), *TOKENS[1:]]
    await append(index, TOKENS[:5])

    assert await append(index, other[5:9], after=other[:5]) is False
    assert await read(index) == TOKENS[:5]


async def test_request_that_begins_anew_leaves_nothing_of_its_earlier_life(index: PrefixIndex) -> None:
    await append(index, TOKENS)
    await append(index, TOKENS[:2])

    assert await read(index) == TOKENS[:2]


async def test_log_of_another_request_doesnt_belong_and_is_replaced(index: PrefixIndex) -> None:
    await index.append_logs([index.log_cursor("r1", b"another", ()).batch(TOKENS)])

    assert await index.read_log("r1", b"print", 10) == TokenLog(belongs=False)
    assert await append(index, TOKENS[5:9], after=TOKENS[:5]) is False
    assert await append(index, TOKENS[:2])
    assert await read(index) == TOKENS[:2]


@pytest.mark.parametrize(
    ("pair", "belongs"),
    [
        (replace(PAIR), True),
        (replace(PAIR, models_identity=b"other"), False),
    ],
)
async def test_log_goes_on_within_pairs_of_the_same_models(
    index: PrefixIndex, redis_server: RedisServer, pair: Any, belongs: bool
) -> None:
    await append(index, TOKENS)

    async with started_index(redis_server.url, pair=pair) as other:
        log = await other.read_log("r1", b"print", 100)

    assert log is not None
    assert log.belongs == belongs


async def test_token_outside_the_vocabulary_ends_the_log(index: PrefixIndex, redis_server: RedisServer) -> None:
    await append(index, TOKENS)

    async with started_index(redis_server.url, pair=replace(PAIR, vocab_size=7)) as other:
        assert await read(other) == TOKENS[:7]
        assert other.num_damaged == 1


async def test_log_not_written_for_its_ttl_is_forgotten(redis_server: RedisServer) -> None:
    async with started_index(redis_server.url, log_ttl_s=1) as index:
        await append(index, TOKENS)
        await append(index, TOKENS, ttl_s=100)
        await asyncio.sleep(1.1)
        assert await read(index) == TOKENS

        await append(index, [], after=TOKENS)
        await asyncio.sleep(1.1)
        assert await read(index) is None


@pytest.mark.parametrize("kind", ["another type", "other bytes", "empty"])
async def test_key_that_holds_no_log_reads_none_and_is_replaced(
    index: PrefixIndex, redis_server: RedisServer, kind: str
) -> None:
    async with Redis.from_url(redis_server.url) as owner:
        if kind == "another type":
            await owner.rpush(LOG_KEY, "a")
        else:
            await owner.set(LOG_KEY, "something else" if kind == "other bytes" else "")

    assert await read(index) is None
    assert index.num_damaged == (kind != "empty")
    assert await append(index, TOKENS[5:], after=TOKENS[:5]) is False
    assert await append(index, TOKENS)
    assert await read(index) == TOKENS
    assert (index.available, index.num_failures) == (True, 0)


async def test_log_of_a_finished_request_is_whole_and_soon_forgotten(
    index: PrefixIndex, redis_server: RedisServer
) -> None:
    sequence = make_sequence()
    async with running_writer(index) as writer:
        writer.opened(sequence)
        # More than one write takes.
        sequence.accept(*make_tokens(9000))
        writer.closed(sequence, finished=True)

        async def is_whole() -> bool:
            return await logged(index, sequence) == sequence.completion

        await until(is_whole)

    async with Redis.from_url(redis_server.url) as owner:
        assert 0 < await owner.ttl(LOG_KEY) <= 30


async def test_log_of_a_client_that_went_away_stays(index: PrefixIndex, redis_server: RedisServer) -> None:
    sequence = make_sequence()
    async with running_writer(index) as writer:
        writer.opened(sequence)
        sequence.accept(*TOKENS)

        async def is_whole() -> bool:
            return await logged(index, sequence) == TOKENS

        await until(is_whole)
        writer.closed(sequence, finished=False)
        await asyncio.sleep(3 * INTERVAL_S)

    async with Redis.from_url(redis_server.url) as owner:
        assert await owner.ttl(LOG_KEY) > 800


@pytest.mark.parametrize("idle", [False, True])
async def test_log_that_redis_lost_is_whole_again(
    index: PrefixIndex, redis_server: RedisServer, idle: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.orchestrator.index.followed._CHECK_INTERVAL_S", 0.1)
    sequence = make_sequence()

    async def is_whole() -> bool:
        return await logged(index, sequence) == sequence.completion

    async with running_writer(index) as writer, Redis.from_url(redis_server.url) as owner:
        writer.opened(sequence)
        sequence.accept(*TOKENS[:5])
        await until(is_whole)
        await owner.flushall()
        if not idle:
            sequence.accept(*TOKENS[5:])
        await until(is_whole)


async def test_logs_of_running_requests_outlive_redis(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.orchestrator.index.followed._CHECK_INTERVAL_S", 0.5)
    sequences = [make_sequence(number) for number in range(1, 33)]
    with RedisServer() as server:
        async with started_index(server.url) as index, running_writer(index) as writer:

            async def are_whole() -> bool:
                return all([await logged(index, sequence) == sequence.completion for sequence in sequences])

            for sequence in sequences:
                writer.opened(sequence)
                sequence.accept(*make_tokens(30))
            await until(are_whole)
            os.kill(server.pid, signal.SIGKILL)
            for sequence in sequences[::2]:
                sequence.accept(*make_tokens(10, start=30))
            await until(lambda: not index.available)

            with RedisServer(server.port):
                await until_available(index, limit_s=10)
                await until(are_whole)


async def test_500_sequences_that_end_at_once_are_no_failure_of_redis(
    index: PrefixIndex, redis_server: RedisServer
) -> None:
    sequences = [make_sequence(number, num_prompt=1000) for number in range(500)]
    async with (
        started_index(redis_server.url, timeout_s=0.05) as burdened,
        running_writer(burdened, interval_s=0.25) as writer,
    ):
        for sequence in sequences:
            writer.opened(sequence)
            sequence.accept(*make_tokens(50))
        for sequence in sequences:
            writer.leaving(sequence)
            writer.closed(sequence, finished=True)

        async def are_whole() -> bool:
            return all([await logged(index, sequence) == sequence.completion for sequence in sequences])

        await until(are_whole)

        assert (await index.lookup(sequences[-1].core.tokens)).slm == {"s": 1040}
        assert burdened.num_failures == 0
        # For 1000 records and 500 logs.
        assert burdened.num_commands < 100


class LossyLink(RedisLink):
    """A link that loses commands, or their replies, and a Redis that loses its data.

    Args:
        url: Redis.
        draw: Where chance comes from.
    """

    def __init__(self, url: str, draw: random.Random) -> None:
        super().__init__(url, 5.0)
        self.draw: random.Random | None = draw

    async def run_all(self, commands: Sequence[Command]) -> Sequence[Any]:
        replies: list[Any] = []
        for command in commands:
            fate = self.draw.choice(["good", "good", "lost", "unanswered", "forgotten"]) if self.draw else "good"
            if fate == "forgotten":
                await super().run_all([("FLUSHALL",)])
            if fate == "lost":
                replies.append(None)
            else:
                (reply,) = await super().run_all([command])
                replies.append(None if fate == "unanswered" else reply)
        return replies


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), sizes=st.lists(st.integers(0, 5), min_size=1, max_size=12))
def test_log_is_always_a_prefix_and_whole_when_it_is_quiet(
    shared_server: RedisServer, seed: int, sizes: list[int]
) -> None:
    async def use() -> None:
        link = LossyLink(shared_server.url, random.Random(seed))
        index = PrefixIndex(link, pair=PAIR)
        await index.start()
        await link.run("FLUSHALL")
        sequences = [make_sequence(number) for number in range(3)]
        async with running_writer(index, interval_s=0.001) as writer:
            for sequence in sequences:
                writer.opened(sequence)
            for size in sizes:
                for sequence in sequences:
                    sequence.accept(*make_tokens(size, start=len(sequence.completion)))
                await asyncio.sleep(0.002)
                for sequence in sequences:
                    tokens = await logged(index, sequence)
                    assert tokens == sequence.completion[: len(tokens)]
            link.draw = None
            for sequence in sequences:
                sequence.accept(*make_tokens(1, start=len(sequence.completion)))

            async def are_whole() -> bool:
                return all([await logged(index, sequence) == sequence.completion for sequence in sequences])

            await until(are_whole)
        assert index.num_damaged == 0
        await index.close()

    asyncio.run(use())


def _damaged(data: st.DataObject, log: bytes) -> bytes:
    """A log of which a part is replaced."""
    start = data.draw(st.integers(0, len(log)), label="start")
    stop = data.draw(st.integers(start, len(log)), label="stop")
    return log[:start] + data.draw(st.binary(max_size=30), label="instead") + log[stop:]


async def _spoil(data: st.DataObject, owner: Redis, key: bytes) -> None:
    """Puts something into a key."""
    text = st.binary(max_size=20) | st.sampled_from(
        [b"slm:a", b"llm:b", b"slm:x", b"1", b"99999999999999999", b"nan"]
    )
    kind = data.draw(
        st.sampled_from(["field", "damage", "string", "hash", "list", "set", "zset", "gone"]), label="kind"
    )
    is_hash = await owner.type(key) == b"hash"
    if kind == "damage" and not is_hash:
        await owner.set(key, _damaged(data, bytes(await owner.get(key) or b"")))  # type: ignore[arg-type]
    elif kind in ("field", "damage") and is_hash:
        await owner.hset(key, data.draw(text), data.draw(text))
    else:
        await owner.delete(key)
        if kind == "string":
            await owner.set(key, data.draw(text))
        elif kind == "hash":
            await owner.hset(key, data.draw(text), data.draw(text))
        elif kind == "list":
            await owner.rpush(key, data.draw(text))
        elif kind == "set":
            await owner.sadd(key, data.draw(text))
        elif kind == "zset":
            await owner.zadd(key, {data.draw(text): 1})


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_whatever_is_in_redis_nothing_fails_and_no_token_is_made_up(
    shared_server: RedisServer, data: st.DataObject
) -> None:
    async def use() -> None:
        async with started_index(shared_server.url) as index, Redis.from_url(shared_server.url) as owner:
            await owner.flushall()
            await record(index, "slm", "a", PROMPT, 48)
            await index.drop_replica("llm", "b")
            await append(index, TOKENS)
            for key in sorted(bytes(key) for key in await owner.keys("trivium:2:*")):  # type: ignore[arg-type]
                if not key.endswith(b":probe") and data.draw(st.booleans(), label=key.decode()):
                    await _spoil(data, owner, key)

            hits = await index.lookup(PROMPT)
            tokens = await read(index) or []
            await append(index, TOKENS[5:], after=TOKENS[:5])

            assert all(0 < held <= 48 for held in (*hits.slm.values(), *hits.llm.values()))
            assert tokens == TOKENS[: len(tokens)]
            assert (index.available, index.num_failures) == (True, 0)

            # It heals: what is written now is found.
            await record(index, "llm", "new", PROMPT, 48)
            await append(index, TOKENS)
            assert (await index.lookup(PROMPT)).llm["new"] == 48
            assert await read(index) == TOKENS

    asyncio.run(use())
