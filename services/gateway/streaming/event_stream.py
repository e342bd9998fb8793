"""A response that is a stream of events: begins once there is something to say, and is never silent for long.

Owns when bytes are sent, each time all that there are in one piece. What they say is up to
`services.gateway.streaming.response`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.types import Send

from services.gateway.streaming.sse import HEADERS, KEEP_ALIVE


class EventStream:
    """Sends events, those of each choice in their order.

    It begins once each choice has said something, so that what fails before has a status of its own, and lets no
    client wait for longer than the silence that is allowed.

    Args:
        send: Sends the parts of the response.
        num_choices: Choices that are going to say something.
        silence_s: Longest silence, in seconds; then comes a comment.
        opening: Events that it begins with.
    """

    def __init__(self, send: Send, num_choices: int, silence_s: float, opening: bytes = b"") -> None:
        self._send = send
        self._silent = set(range(num_choices))
        self._silence_s = silence_s
        self._loop = asyncio.get_running_loop()
        self._last_time = self._loop.time()
        # What there is to say before it has begun.
        self._waiting = [opening]
        self._beginning = asyncio.Lock()
        self._flows = False
        self.has_begun = False
        """Whether its status is sent."""

    async def put(self, index: int, events: bytes) -> None:
        """Sends events of a choice, or none; returns once the client takes more."""
        if self._flows:
            await self._write(events)
            return
        self._waiting.append(events)
        self._silent.discard(index)
        if not self._silent:
            await self._begin()

    @asynccontextmanager
    async def kept_alive(self) -> AsyncIterator[None]:
        """Breaks silences for the length of a `with` block."""
        breaking = asyncio.create_task(self._break_silences())
        try:
            yield
        finally:
            breaking.cancel()
            await asyncio.gather(breaking, return_exceptions=True)

    async def end(self, events: bytes) -> None:
        """Sends the last events. Nobody else sends any more."""
        await self._start()
        body = b"".join((*self._waiting, events))
        await self._send({"type": "http.response.body", "body": body, "more_body": False})

    async def _break_silences(self) -> None:
        while True:
            await asyncio.sleep(self._last_time + self._silence_s - self._loop.time())
            if not self._flows:
                await self._begin()
            elif self._loop.time() >= self._last_time + self._silence_s:
                await self._write(KEEP_ALIVE)

    async def _begin(self) -> None:
        async with self._beginning:
            await self._start()
            # Choices go on meanwhile where the connection is slow.
            while num_waiting := len(self._waiting):
                await self._write(b"".join(self._waiting))
                del self._waiting[:num_waiting]
            self._flows = True

    async def _start(self) -> None:
        if not self.has_begun:
            self._last_time = self._loop.time()
            await self._send({"type": "http.response.start", "status": 200, "headers": HEADERS})
            self.has_begun = True

    async def _write(self, events: bytes) -> None:
        if events:
            self._last_time = self._loop.time()
            await self._send({"type": "http.response.body", "body": events, "more_body": True})
