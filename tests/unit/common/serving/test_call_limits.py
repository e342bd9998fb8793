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
