"""The index before a Redis that says anything."""

import asyncio
import logging
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.orchestrator.index.command_link import Refused
from services.orchestrator.index.prefix_index import Holding, PrefixHits, PrefixIndex
from services.orchestrator.index.replies import BlockHits, DamageReport, read_hits
from tests.unit.orchestrator.index.fakes import PAIR, FakeLink, make_tokens

values = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.binary(max_size=20) | st.text() | st.just(Refused())
)
replies = st.recursive(
    values | st.sampled_from([b"slm:a", b"llm:b", b"slm:", b"\xff"]), lambda reply: st.lists(reply, max_size=5)
)
PROMPT = list(range(64))


@settings(deadline=None)
@given(replies)
def test_whatever_redis_says_nothing_raises_and_no_token_is_made_up(reply: Any) -> None:
    async def use() -> None:
        index = PrefixIndex(FakeLink(lambda _command: reply), pair=PAIR)
        hits = await index.lookup(PROMPT)
        assert all(0 < held <= len(PROMPT) for held in (*hits.slm.values(), *hits.llm.values()))
        await index.record([Holding("slm", "a", [b"x" * 16])])
        assert await index.drop_replica("slm", "a") in (True, False)
        batch = index.log_cursor("r", b"f", ()).batch(make_tokens(3))
        (written,) = await index.append_logs([batch])
        assert written in (True, False, None)
        log = await index.read_log("r", b"f", 10)
        assert log is None or not log.tokens

    asyncio.run(use())


@settings(deadline=None)
@given(replies, st.integers(1, 8))
def test_hits_are_read_within_bounds(reply: Any, num_blocks: int) -> None:
    hits = read_hits(reply, num_blocks)

    assert all(0 < held <= num_blocks for held in (*hits.slm.values(), *hits.llm.values()))
    assert hits.num_damaged >= 0


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ([0], BlockHits()),
        ([0, b"slm:a", 3, b"llm:b:c", 1], BlockHits(slm={"a": 3}, llm={"b:c": 1})),
        ([2, b"slm:a", 3], BlockHits(slm={"a": 3}, num_damaged=2)),
        ([0, b"slm:a", 3, b"llm:b"], BlockHits(slm={"a": 3}, num_damaged=1)),
        ([0, b"gpu:a", 3, b"slm:b", 5, b"slm:c", 2], BlockHits(slm={"c": 2}, num_damaged=2)),
        ([b"slm:a", 3], BlockHits(num_damaged=1)),
        ([], BlockHits(num_damaged=1)),
        (Refused(), BlockHits(num_damaged=1)),
    ],
)
def test_hits_are_read_without_what_isnt_the_indexs(reply: Any, expected: BlockHits) -> None:
    assert read_hits(reply, 4) == expected


async def test_damage_is_counted_and_said_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "services.orchestrator")
    index = PrefixIndex(FakeLink(lambda _command: Refused()), pair=PAIR)

    for _ in range(10):
        assert await index.lookup(PROMPT) == PrefixHits()
        assert await index.read_log("secret prompt", b"f", 10) is None

    assert index.num_damaged == 20
    assert len(caplog.records) == 1
    assert "secret" not in caplog.text


async def test_damage_report_of_nothing_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    report = DamageReport()
    report.found("a token log", 0)

    assert report.num_damaged == 0
    assert caplog.records == []


async def test_index_that_doesnt_know_its_pair_yet_says_and_knows_nothing() -> None:
    link = FakeLink(lambda _command: 1)
    index = PrefixIndex(link)

    assert await index.lookup(PROMPT) == PrefixHits()
    assert await index.read_log("r", b"f", 10) is None
    assert await index.append_logs([index.log_cursor("r", b"f", ()).batch(make_tokens(3))]) == [None]
    assert not await index.drop_replica("slm", "a")
    assert link.commands == []


async def test_long_prefix_is_recorded_in_commands_of_bounded_size() -> None:
    link = FakeLink(lambda _command: 1)
    index = PrefixIndex(link, pair=PAIR)
    tokens = list(range(32_768))

    await index.record([Holding("llm", "l", index.block_chain().hashes(tokens, len(tokens)))])

    assert [command[2] for command in link.commands] == [512] * 4
