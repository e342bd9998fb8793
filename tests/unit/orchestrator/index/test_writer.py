import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from services.common.errors import InvalidRequest
from services.orchestrator.index.command_link import Command
from services.orchestrator.index.prefix_index import PrefixIndex
from services.orchestrator.index.token_log import HEADER_LEN, RECORD_LEN, log_header, pack_tokens
from services.orchestrator.index.writer import IndexWriter
from services.orchestrator.requests.task import GenerationTask
from tests import serving
from tests.unit.orchestrator.index.fakes import PAIR, FakeLink, FakeReplica, make_sequence, make_tokens

INTERVAL_S = 0.01


def make_index(answer: Callable[[Command], Any] = lambda _command: 1) -> tuple[FakeLink, PrefixIndex]:
    link = FakeLink(answer)
    return link, PrefixIndex(link, pair=PAIR)


@asynccontextmanager
async def running_writer(index: PrefixIndex, interval_s: float = INTERVAL_S) -> AsyncIterator[IndexWriter]:
    writer = IndexWriter(index, interval_s)
    running = asyncio.create_task(writer.run())
    yield writer
    assert not running.done(), "the writer ended"
    running.cancel()
    await asyncio.wait({running})


async def until(condition: Callable[[], bool]) -> None:
    await serving.until(condition, timeout_s=10)


def appends(link: FakeLink) -> list[tuple[int, int]]:
    """Position and number of tokens of all batches that were sent."""
    return [
        (int(command[5]) // RECORD_LEN, len(command[7]) // RECORD_LEN)  # type: ignore[arg-type]
        for command in link.commands
        if ":log:" in str(command[3])
    ]


def records(link: FakeLink) -> list[tuple[Any, int]]:
    """Replica and number of blocks of all records that were sent."""
    return [
        (command[-2], int(command[2]))
        for command in link.commands
        if ":block:" in str(command[3]) and isinstance(command[-2], str)
    ]


async def test_what_redis_hasnt_confirmed_is_written_again_with_what_follows() -> None:
    answers: list[Any] = [None, None, 1]
    link, index = make_index(lambda _command: answers.pop(0) if answers else 1)
    sequence = make_sequence()
    sequence.slm = sequence.llm = None

    async with running_writer(index) as writer:
        writer.opened(sequence)
        sequence.accept(*make_tokens(3))
        await until(lambda: len(appends(link)) >= 2)
        sequence.accept(*make_tokens(2, start=3))
        await until(lambda: not answers and appends(link)[-1][0] + appends(link)[-1][1] == 5)
        written = appends(link)

    assert written[:2] == [(0, 3), (0, 3)]
    assert all(position in (0, 3) for position, _ in written)


async def test_log_that_redis_has_lost_is_written_from_the_start() -> None:
    answers: list[Any] = [1, 0]
    link, index = make_index(lambda _command: answers.pop(0) if answers else 1)
    sequence = make_sequence()
    sequence.slm = sequence.llm = None

    async with running_writer(index) as writer:
        writer.opened(sequence)
        sequence.accept(*make_tokens(3))
        await until(lambda: appends(link) == [(0, 3)])
        sequence.accept(*make_tokens(2, start=3))
        await until(lambda: len(appends(link)) == 3)

    assert appends(link) == [(0, 3), (3, 2), (0, 5)]


async def test_prompt_is_hashed_for_the_log_once(monkeypatch: pytest.MonkeyPatch) -> None:
    num_hashed = 0
    fingerprint = GenerationTask.fingerprint

    def counted(task: GenerationTask) -> bytes:
        nonlocal num_hashed
        num_hashed += 1
        return fingerprint(task)

    monkeypatch.setattr(GenerationTask, "fingerprint", counted)
    link, index = make_index()
    sequence = make_sequence()

    async with running_writer(index) as writer:
        writer.opened(sequence)
        for number in range(10):
            sequence.accept(*make_tokens(1, start=number))
            await until(lambda number=number: appends(link)[-1:] == [(number, 1)])  # type: ignore[misc]
        writer.closed(sequence, finished=True)
        await until(lambda: len(appends(link)) == 11)

    assert num_hashed == 1


async def test_placement_is_told_once_the_prompt_is_processed_and_again_at_the_end() -> None:
    link, index = make_index()
    sequence = make_sequence(num_prompt=40)

    async with running_writer(index) as writer:
        writer.opened(sequence)
        sequence.accept(*make_tokens(9))
        await until(lambda: len(records(link)) == 2)
        sequence.accept(*make_tokens(32, start=9))
        writer.leaving(sequence)
        sequence.slm = sequence.llm = None
        writer.leaving(sequence)
        writer.closed(sequence, finished=False)
        await until(lambda: len(records(link)) == 4)

    # 40 + 9 tokens; the SLM has not processed the last one, and neither has this LLM.
    assert records(link) == [("slm:s", 3), ("llm:l", 3), ("slm:s", 5), ("llm:l", 5)]


async def test_llm_that_was_never_asked_holds_nothing() -> None:
    link, index = make_index()
    sequence = make_sequence()

    async with running_writer(index) as writer:
        writer.opened(sequence)
        sequence.accept(*make_tokens(1))
        sequence.core.llm_held_len = 0
        writer.leaving(sequence)
        await until(lambda: len(records(link)) == 1)

    assert records(link) == [("slm:s", 2)]


async def test_end_is_written_at_once_and_logs_at_their_pace() -> None:
    link, index = make_index()
    sequences = [make_sequence(number) for number in range(3)]

    async with running_writer(index, interval_s=3600) as writer:
        for sequence in sequences:
            writer.opened(sequence)
            sequence.accept(*make_tokens(4))
        writer.leaving(sequences[0])
        writer.closed(sequences[0], finished=True)
        writer.lost("slm", "gone")
        await until(lambda: len(link.commands) == 4)

    assert appends(link) == [(0, 4)]
    assert link.commands[2][4:] == ("slm:gone", 3600)


async def test_dead_replica_is_told_until_redis_has_heard_it() -> None:
    answers: list[Any] = [None, None]
    link, index = make_index(lambda _command: answers.pop(0) if answers else 1)

    async with running_writer(index) as writer:
        writer.lost("llm", "gone")
        link.available = False
        await asyncio.sleep(3 * INTERVAL_S)
        assert link.commands == []
        link.available = True
        await until(lambda: len(link.commands) == 3)
        await asyncio.sleep(3 * INTERVAL_S)

    assert len(link.commands) == 3


async def test_nothing_is_kept_for_a_redis_that_is_away() -> None:
    link, index = make_index()
    link.available = False
    sequence = make_sequence()

    async with running_writer(index) as writer:
        writer.opened(sequence)
        sequence.accept(*make_tokens(3))
        writer.leaving(sequence)
        writer.closed(sequence, finished=True)
        await asyncio.sleep(3 * INTERVAL_S)
        link.available = True
        await asyncio.sleep(3 * INTERVAL_S)

    assert link.commands == []


async def test_closing_twice_or_what_was_never_opened_does_nothing() -> None:
    _, index = make_index()
    writer = IndexWriter(index, INTERVAL_S)
    sequence = make_sequence()

    writer.leaving(sequence)
    writer.closed(sequence, finished=True)
    writer.opened(sequence)
    writer.closed(sequence, finished=False)
    writer.closed(sequence, finished=False)


async def test_writer_outlives_a_fault_that_nobody_thought_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("services.orchestrator.index.writer._PAUSE_S", INTERVAL_S)
    link, index = make_index()
    broken, sequence = make_sequence(1), make_sequence(2)
    broken.slm = FakeReplica("s")
    broken.core.tokens = None  # type: ignore[assignment]

    async with running_writer(index) as writer:
        writer.opened(broken)
        writer.leaving(broken)
        await until(lambda: "something wasn't written" in caplog.text)
        assert "Traceback" in caplog.text
        writer.opened(sequence)
        sequence.accept(*make_tokens(2))
        await until(lambda: appends(link) == [(0, 2)])


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        (b"", 0),
        (b"whatever", 0),
        (None, 0),
        ([], 0),
        (7, 0),
    ],
)
async def test_resumed_tokens_of_a_log_that_isnt_one_are_none(stored: Any, expected: int) -> None:
    _, index = make_index(lambda _command: stored)

    assert len(await IndexWriter(index, INTERVAL_S).resumed_tokens(make_sequence(resume_from=2).task)) == expected


async def test_resumed_tokens_are_those_of_the_log_and_asked_for_only_as_far_as_needed() -> None:
    task = make_sequence(resume_from=2).task
    header = log_header(task.fingerprint(), PAIR.models_identity)
    tokens = make_tokens(5)
    link, index = make_index(lambda _command: header + pack_tokens(tokens, header[-4:])[0])

    assert list(await IndexWriter(index, INTERVAL_S).resumed_tokens(task)) == tokens
    assert link.commands[-1][2:] == (0, HEADER_LEN + task.max_new_tokens * RECORD_LEN - 1)


@pytest.mark.parametrize(("resume_from", "num_commands"), [(None, 0), (0, 1)])
async def test_log_is_read_for_every_request_that_resumes_also_at_its_first_token(
    resume_from: int | None, num_commands: int
) -> None:
    link, index = make_index(lambda _command: b"")

    await IndexWriter(index, INTERVAL_S).resumed_tokens(make_sequence(resume_from=resume_from).task)

    assert len(link.commands) == num_commands


async def test_resuming_another_requests_log_is_refused() -> None:
    header = log_header(b"another", PAIR.models_identity)
    _, index = make_index(lambda _command: header)

    with pytest.raises(InvalidRequest, match="request_id: 'r1' belongs to a request with another prompt"):
        await IndexWriter(index, INTERVAL_S).resumed_tokens(make_sequence(resume_from=2).task)
