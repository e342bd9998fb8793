"""The host's side of the socket, on a stand-in for `sglang.Engine`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import pytest

pytest.importorskip("services.engines.sglang", exc_type=ModuleNotFoundError)
from fastapi import HTTPException

from services.engines.base import GREEDY
from services.engines.sglang import host as host_module
from services.engines.sglang.chunks import CACHE_CLEARED, PROGRESS, Chunk, unpack_chunk
from services.engines.sglang.frames import pack_frame, pack_ids, read_frame
from services.engines.sglang.host import Host
from services.engines.sglang.troubles import Trouble

TIMEOUT_S = 10.0
Outputs = AsyncIterator[dict[str, Any]]


@dataclass
class Load:
    """SGLang's load snapshot, as far as it tells of progress, and what it tells besides."""

    num_used_tokens: int = 0
    num_running_reqs: int = 1
    total_prefill_uncached_tokens: int = 0
    total_prefill_busy_us: int = 0
    decode_moments: list[float] | None = None
    timestamp: float = 0.0


@dataclass
class FakeTokenizerManager:
    load: Load = field(default_factory=Load)
    aborted: list[str] = field(default_factory=list)
    num_reads: int = 0
    is_read: asyncio.Event = field(default_factory=asyncio.Event)

    def abort_request(self, rid: str) -> None:
        self.aborted.append(rid)

    async def get_loads(self) -> list[Load]:
        self.load.timestamp += 1.0
        self.num_reads += 1
        self.is_read.set()
        return [Load(**asdict(self.load))]

    async def until_read(self, num_more: int) -> None:
        wanted = self.num_reads + num_more
        while self.num_reads < wanted:
            self.is_read.clear()
            await self.is_read.wait()

    async def flush_cache(self, timeout_s: float) -> None:
        raise RuntimeError("the scheduler is gone")


class FakeEngine:
    def __init__(self, outputs: Callable[[], Outputs]) -> None:
        self.tokenizer_manager = FakeTokenizerManager()
        self.outputs = outputs
        self.requests: list[str] = []

    async def async_generate(self, **arguments: Any) -> Outputs:
        self.requests.append(arguments["rid"])
        return self.outputs()


class Connection:
    """Both ends of the host's socket: what is written to it is read as chunks."""

    def __init__(self, engine: FakeEngine) -> None:
        self.to_host = asyncio.StreamReader()
        self._from_host = asyncio.StreamReader()
        self.host = Host(engine, False, "", self)  # type: ignore[arg-type]

    def write(self, data: bytes) -> None:
        self._from_host.feed_data(data)

    def submit(self, request_id: str) -> None:
        header = {
            "op": "submit",
            "request_id": request_id,
            "max_new_tokens": 1,
            "stop_token_ids": [],
            "sampling": asdict(GREEDY),
            "choices_from": -1,
        }
        self.to_host.feed_data(pack_frame(header, pack_ids([1])))

    def command(self, op: str, request_id: str) -> None:
        self.to_host.feed_data(pack_frame({"op": op, "request_id": request_id}))

    async def next_chunk(self) -> Chunk:
        return unpack_chunk(*await asyncio.wait_for(read_frame(self._from_host), TIMEOUT_S))

    async def assert_silent(self) -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(read_frame(self._from_host), 0.1)


def output(**meta: Any) -> dict[str, Any]:
    defaults = {"finish_reason": None, "prompt_tokens": 1, "cached_tokens": 0}
    return {"output_ids": [], "meta_info": defaults | meta}


async def for_ever() -> Outputs:
    await asyncio.Event().wait()
    yield output()


async def test_any_exception_of_a_request_is_told_and_others_go_on() -> None:
    broken: list[BaseException] = [RuntimeError("CUDA error"), ValueError("too long"), HTTPException(503, "later")]
    raised = iter(broken)

    async def outputs() -> Outputs:
        if (error := next(raised, None)) is not None:
            raise error
        yield output(finish_reason={"type": "length"})

    connection = Connection(FakeEngine(outputs))
    serving = asyncio.create_task(connection.host.serve(connection.to_host))
    for request_id, trouble in (("1", Trouble.FAULT), ("2", Trouble.REFUSED), ("3", Trouble.PASSES)):
        connection.submit(request_id)
        chunk = await connection.next_chunk()
        assert (chunk.request_id, chunk.trouble) == (request_id, trouble)
    connection.submit("4")
    assert (await connection.next_chunk()).trouble is None
    connection.to_host.feed_eof()
    await asyncio.wait_for(serving, TIMEOUT_S)


async def test_output_that_cannot_be_packed_fails_its_request_and_ends_it_in_sglang() -> None:
    is_closed = asyncio.Event()

    async def outputs() -> Outputs:
        try:
            yield {"output_ids": [1]}
        finally:
            is_closed.set()

    connection = Connection(FakeEngine(outputs))
    serving = asyncio.create_task(connection.host.serve(connection.to_host))
    connection.submit("1")
    chunk = await connection.next_chunk()
    assert (chunk.trouble, chunk.message) == (Trouble.FAULT, "KeyError('meta_info')")
    await asyncio.wait_for(is_closed.wait(), TIMEOUT_S)
    connection.to_host.feed_eof()
    await asyncio.wait_for(serving, TIMEOUT_S)


async def test_cache_that_cannot_be_cleared_is_told() -> None:
    connection = Connection(FakeEngine(for_ever))
    serving = asyncio.create_task(connection.host.serve(connection.to_host))
    connection.command("clear_cache", CACHE_CLEARED)
    chunk = await connection.next_chunk()
    assert (chunk.request_id, chunk.trouble) == (CACHE_CLEARED, Trouble.FAULT)
    connection.to_host.feed_eof()
    await asyncio.wait_for(serving, TIMEOUT_S)


async def test_exception_of_the_host_itself_ends_it() -> None:
    connection = Connection(FakeEngine(for_ever))
    connection.host._writer = None  # type: ignore[assignment]
    connection.command("clear_cache", CACHE_CLEARED)
    with pytest.raises(ExceptionGroup) as caught:
        await asyncio.wait_for(connection.host.serve(connection.to_host), TIMEOUT_S)
    assert [type(error) for error in caught.value.exceptions] == [AttributeError]


async def test_command_that_is_no_command_ends_the_host() -> None:
    connection = Connection(FakeEngine(for_ever))
    connection.to_host.feed_data(pack_frame({"op": "abort"}))
    with pytest.raises(ExceptionGroup) as caught:
        await asyncio.wait_for(connection.host.serve(connection.to_host), TIMEOUT_S)
    assert [type(error) for error in caught.value.exceptions] == [KeyError]


async def test_request_aborted_before_sglang_knows_it_never_runs() -> None:
    engine = FakeEngine(for_ever)
    connection = Connection(engine)
    serving = asyncio.create_task(connection.host.serve(connection.to_host))
    # Both are there before the request's task runs.
    connection.submit("1")
    connection.command("abort", "1")
    connection.submit("2")
    await engine.tokenizer_manager.until_read(1)
    assert engine.requests == ["2"]
    connection.to_host.feed_eof()
    await asyncio.wait_for(serving, TIMEOUT_S)


async def test_progress_is_told_while_the_scheduler_gets_on_and_not_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(host_module, "_PROGRESS_INTERVAL_S", 0.01)
    engine = FakeEngine(for_ever)
    manager = engine.tokenizer_manager
    connection = Connection(engine)
    serving = asyncio.create_task(connection.host.serve(connection.to_host))
    manager.load.num_used_tokens = 7
    await manager.until_read(2)
    connection.submit("1")
    # The time stamp moves, nothing else does.
    await connection.assert_silent()
    for change in ({"num_used_tokens": 9}, {"total_prefill_uncached_tokens": 9}, {"decode_moments": [1.0]}):
        for name, value in change.items():
            setattr(manager.load, name, value)
        assert (await connection.next_chunk()).request_id == PROGRESS
        await connection.assert_silent()
    connection.to_host.feed_eof()
    await asyncio.wait_for(serving, TIMEOUT_S)
