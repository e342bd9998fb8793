"""Runs the choices of one request side by side.

Owns their tasks: none outlives the request, and so none of its slots on any service.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Protocol

from trivium.v1 import orchestrator_pb2 as pb


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


Take = Callable[[int, pb.GenerateResponse], Awaitable[None]]
"""Called with the index of a choice and its next message; whoever sends that waits until it returns."""


class ChoiceFailed(Exception):
    """A choice failed, which is the cause; the others are worth nothing without it."""

    def __init__(self, index: int) -> None:
        super().__init__(f"choice {index}")
        self.index = index


class Choices:
    """The choices of one request.

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

    async def run(self, take: Take) -> None:
        """Runs all of them to their ends; nothing of them runs when this has returned, or was cancelled.

        Args:
            take: A reader that is slow slows its own choices down, and fills no memory.

        Raises:
            ChoiceFailed: One failed.
        """
        tasks = [asyncio.create_task(self._run(index, take)) for index in range(len(self._requests))]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, index: int, take: Take) -> None:
        stream = self._orchestrators.generate(self._requests[index], timeout_s=self._timeout_s, api_key=self._api_key)
        try:
            async with contextlib.aclosing(stream) as responses:
                async for response in responses:
                    await take(index, response)
        except Exception as error:
            raise ChoiceFailed(index) from error
