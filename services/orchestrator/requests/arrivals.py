"""Requests from their arrival to the end of their stream, findable by the name that clients know.

Owns who may have a name: one request at a time, which a client that resumes takes over from its own old stream,
whether that runs, waits for its turn or is being tokenized. Owns also how a request is ended by somebody else.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Protocol

from services.common.errors import Cancelled, InvalidRequest, TriviumError
from services.orchestrator.requests.task import GenerationTask


class Request(Protocol):
    """What has arrived: `ParsedRequest`, or a task of which nothing is left to be read."""

    @property
    def request_id(self) -> str:
        """Its name."""

    @property
    def resume_from(self) -> int | None:
        """Completion tokens that its client has; None for a new request."""

    async def task(self) -> GenerationTask:
        """Reads its prompt, once."""


class Running(Protocol):
    """A sequence, as its request ends it."""

    @property
    def running(self) -> bool:
        """Whether it hasn't finished, failed or been cancelled."""

    def fail(self, error: Exception) -> None:
        """Ends it."""


class Arrival:
    """One request that is here. Its handler holds it as a context while it waits for what it needs.

    Attributes:
        request: The request.
        sequence: What it has become; None before.
    """

    def __init__(self, request: Request) -> None:
        self.request = request
        self.sequence: Running | None = None
        self._error: Exception | None = None
        self._waiting: asyncio.Task[object] | None = None
        self._num_cancels = 0

    @property
    def is_over(self) -> bool:
        """Whether it has ended, though its client may not have heard of it."""
        return self._error is not None or (self.sequence is not None and not self.sequence.running)

    def end(self, error: Exception) -> None:
        """Ends it with an error, wherever it is. Without effect where it is over."""
        if self.is_over:
            return
        self._error = error
        if self.sequence is not None:
            self.sequence.fail(error)
        elif self._waiting is not None:
            self._waiting.cancel()

    def __enter__(self) -> None:
        self._waiting = asyncio.current_task()
        assert self._waiting is not None, "a handler is a task"
        self._num_cancels = self._waiting.cancelling()
        if self._error is not None:
            raise self._error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        waiting, self._waiting = self._waiting, None
        assert waiting is not None, "entered before"
        # As in `asyncio.timeout`: what was ended here, and by nobody else, hears why.
        if self._error is not None and waiting.uncancel() <= self._num_cancels and kind is asyncio.CancelledError:
            raise self._error from None


class Arrivals:
    """All requests that are here."""

    def __init__(self) -> None:
        self._by_id: dict[str, list[Arrival]] = {}

    async def arrive(self, request: Request) -> Arrival:
        """Takes a request in; `leave` has to follow.

        Raises:
            InvalidRequest: Its name is in use, and it doesn't go on with what has it.
        """
        request_id = request.request_id
        while others := self._by_id.get(request_id):
            if request.resume_from is None:
                raise InvalidRequest(f"request_id: {request_id!r} is running already")
            old = next((other for other in others if not other.is_over), None)
            if old is None:
                break
            if not await _is_same(request, old.request):
                raise InvalidRequest(f"request_id: {request_id!r} is running already")
            old.end(Cancelled(f"request {request_id!r} was resumed elsewhere"))
        arrival = Arrival(request)
        self._by_id.setdefault(request_id, []).append(arrival)
        return arrival

    def leave(self, arrival: Arrival) -> None:
        """Its stream is over."""
        request_id = arrival.request.request_id
        self._by_id[request_id].remove(arrival)
        if not self._by_id[request_id]:
            del self._by_id[request_id]

    def cancel(self, request_id: str) -> bool:
        """Ends a request with `Cancelled`. Returns False if none of that name is here."""
        found = [arrival for arrival in self._by_id.get(request_id, ()) if not arrival.is_over]
        for arrival in found:
            arrival.end(Cancelled(f"request {request_id!r} was cancelled"))
        return bool(found)


async def _is_same(request: Request, old: Request) -> bool:
    fingerprint = (await request.task()).fingerprint()
    try:
        return fingerprint == (await old.task()).fingerprint()
    except TriviumError:
        # Its prompt can't be read, and this one's can.
        return False
