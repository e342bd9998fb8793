"""Runs the choices of one request side by side.

Owns their tasks: none outlives the request, and so none of its slots on any service.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Protocol

from trivium.v1 import orchestrator_pb2 as pb

_WAITING_PER_CHOICE = 2


class Orchestrators(Protocol):
    """What the gateway asks: `services.client.AsyncClient`, or what stands in for it in tests."""

    def generate(
        self, request: pb.GenerateRequest, *, timeout_s: float | None = None, api_key: str | None = None
    ) -> AsyncGenerator[pb.GenerateResponse, None]:
        """Streams one completion, in the name of whoever has the key.

        Raises:
            GenerationFailed: It can't be gone on with.
        """

    async def server_info(self) -> pb.OrchestratorServiceGetServerInfoResponse:
        """Describes the pair.

        Raises:
            CallFailed: No orchestrator answers.
        """


@dataclass(frozen=True, slots=True)
class Message:
    """A message of one choice."""

    index: int
    response: pb.GenerateResponse


@dataclass(frozen=True, slots=True)
class _Ended:
    index: int
    error: Exception | None


class ChoiceFailed(Exception):
    """A choice failed, which is the cause; the others are worth nothing without it."""

    def __init__(self, index: int) -> None:
        super().__init__(f"choice {index}")
        self.index = index


class RunningChoices:
    """A context manager: nothing of the choices runs after it.

    Args:
        orchestrators: Who is asked.
        requests: What for, one for each choice.
        timeout_s: Seconds that each may take.
        api_key: The caller's; None where it showed none.
    """

    def __init__(
        self,
        orchestrators: Orchestrators,
        requests: Sequence[pb.GenerateRequest],
        timeout_s: float,
        api_key: str | None = None,
    ) -> None:
        self._orchestrators = orchestrators
        self._requests = requests
        self._timeout_s = timeout_s
        self._api_key = api_key
        # A reader that is slow slows its own streams down, and fills no memory.
        self._arrived: asyncio.Queue[Message | _Ended] = asyncio.Queue(_WAITING_PER_CHOICE * len(requests))
        self._num_open = len(requests)
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> RunningChoices:
        self._tasks = [asyncio.create_task(self._run(index)) for index in range(len(self._requests))]
        return self

    async def __aexit__(self, *exception: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def next(self) -> Message | None:
        """Waits for the next message of any choice; None after the last one of all. May be cancelled.

        Raises:
            ChoiceFailed: One failed.
        """
        while self._num_open:
            item = await self._arrived.get()
            if isinstance(item, Message):
                return item
            if item.error is not None:
                raise ChoiceFailed(item.index) from item.error
            self._num_open -= 1
        return None

    async def begin(self, timeout_s: float) -> list[Message]:
        """Waits until each choice has something to say, at most `timeout_s` seconds. Returns what came.

        Raises:
            ChoiceFailed: One failed.
        """
        messages: list[Message] = []
        silent = set(range(len(self._requests)))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while silent and (message := await self.next()) is not None:
                    messages.append(message)
                    silent.discard(message.index)
        return messages

    async def _run(self, index: int) -> None:
        error = None
        try:
            stream = self._orchestrators.generate(
                self._requests[index], timeout_s=self._timeout_s, api_key=self._api_key
            )
            async with contextlib.aclosing(stream) as responses:
                async for response in responses:
                    await self._arrived.put(Message(index, response))
        except Exception as raised:  # noqa: BLE001 - raised again by whoever reads
            error = raised
        await self._arrived.put(_Ended(index, error))
