"""Lets a bounded number of requests run, and a bounded number wait for their turn, first come first served.

Owns the only place where a request is refused for want of room before it has begun. One that runs keeps its place
until its end.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from services.common.errors import CapacityExceeded


class Admission:
    """Hands out the right to run.

    Args:
        max_active: Requests that run at once.
        max_waiting: Requests that wait; more are refused.
    """

    def __init__(self, max_active: int, max_waiting: int) -> None:
        self.num_active = 0
        """Requests that run."""
        self.num_refused = 0
        """Requests refused since the start."""
        self._max_active = max_active
        self._max_waiting = max_waiting
        # Nobody waits while there is room: a place that becomes free goes to the next in line at once.
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def num_waiting(self) -> int:
        """Requests that wait for their turn."""
        return len(self._waiting)

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """Waits for a request's turn, and keeps its place for as long as the context is open.

        Raises:
            CapacityExceeded: Too many wait already. Raised at once.
        """
        await self._enter()
        try:
            yield
        finally:
            self._leave()

    async def _enter(self) -> None:
        if self.num_active < self._max_active:
            self.num_active += 1
            return
        if self.num_waiting >= self._max_waiting:
            self.num_refused += 1
            raise CapacityExceeded(
                f"max_waiting_requests: {self.num_active} requests run and {self.num_waiting} wait already"
            )
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn in self._waiting:
                self._waiting.remove(turn)
            elif not turn.cancelled():
                # Its turn came in the moment in which its client left.
                self._leave()
            raise

    def _leave(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self.num_active -= 1
