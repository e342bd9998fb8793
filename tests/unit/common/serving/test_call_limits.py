from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from services.common.errors import DeadlineExceeded, InvalidRequest
from services.common.serving.call_limits import MessageReader


class _Calls:
    """Messages that arrive when they may."""

    def __init__(self) -> None:
        self.num_receiving = 0
        self.most_receiving = 0
        self.may_arrive = asyncio.Event()

    async def read(self) -> bytes:
        self.num_receiving += 1
        self.most_receiving = max(self.most_receiving, self.num_receiving)
        try:
            await self.may_arrive.wait()
        finally:
            self.num_receiving -= 1
        return b"message"


class _Silent:
    """A client that sends nothing, and says so."""

    async def read(self) -> Any:
        return grpc.aio.EOF


async def test_messages_are_received_a_few_at_once_and_all_of_them() -> None:
    reader, calls = MessageReader(max_reading=3), _Calls()
    reading = [asyncio.create_task(reader.read(calls)) for _ in range(20)]
    for _ in range(20):
        await asyncio.sleep(0)
    assert calls.num_receiving == 3
    calls.may_arrive.set()
    assert await asyncio.gather(*reading) == [b"message"] * 20
    assert calls.most_receiving == 3


async def test_message_that_does_not_arrive_gives_its_turn_away() -> None:
    reader, calls = MessageReader(max_reading=1, timeout_s=0.01), _Calls()
    late = asyncio.create_task(reader.read(calls))
    with pytest.raises(DeadlineExceeded, match="the request message took longer than"):
        await late
    calls.may_arrive.set()
    assert await reader.read(calls) == b"message"


async def test_call_without_a_message_is_invalid() -> None:
    with pytest.raises(InvalidRequest, match="no request message"):
        await MessageReader().read(_Silent())


async def test_large_messages_are_received_no_faster_than_the_limit_and_small_ones_at_once() -> None:
    class _Large:
        async def read(self) -> bytes:
            return bytes(10_000)

    loop = asyncio.get_running_loop()
    reader = MessageReader(max_reading=2, bytes_per_s=100_000)
    began = loop.time()
    await asyncio.gather(*[reader.read(_Large()) for _ in range(6)])
    # Two are received at once, and the last two wait for the four before them.
    assert loop.time() - began >= 0.4

    reader, calls = MessageReader(max_reading=1), _Calls()
    calls.may_arrive.set()
    began = loop.time()
    await asyncio.gather(*[reader.read(calls) for _ in range(1000)])
    assert loop.time() - began < 1
