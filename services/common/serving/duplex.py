"""Runs a bidirectional stream whose responses don't answer requests one by one.

Owns the responses that wait to be written and the joint end of both directions. Doesn't look into messages.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Generic, TypeVar

import grpc
from google.protobuf.message import Message

from services.common.errors import CapacityExceeded

RequestT = TypeVar("RequestT", bound=Message)
ResponseT = TypeVar("ResponseT", bound=Message)


class Outbox(Generic[ResponseT]):
    """The responses of one stream that wait to be written, in order.

    Whoever fills it never waits. A client that reads too slowly loses its stream instead of slowing others down or
    filling the memory.

    Args:
        max_bytes: Most bytes that may wait. One response may always wait, whatever its size.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._responses: deque[tuple[ResponseT, int]] = deque()
        self._finished = False
        self.failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done once the stream was ended with an error, which is its exception."""
        self._wakeup = asyncio.Event()

    def put(self, response: ResponseT) -> None:
        """Adds a response. Without effect once finished."""
        if self._finished:
            return
        num_bytes = response.ByteSize()
        if self._responses and self._num_bytes + num_bytes > self._max_bytes:
            self.finish(CapacityExceeded(f"the stream is read too slowly: {self._num_bytes} bytes wait to be sent"))
            return
        self._responses.append((response, num_bytes))
        self._num_bytes += num_bytes
        self._wakeup.set()

    def finish(self, error: BaseException | None = None) -> None:
        """Ends the stream: with an error at once, without one after what waits is written. The first end counts."""
        if self._finished:
            return
        self._finished = True
        self._wakeup.set()
        if error:
            self.failure.set_exception(error)
            # Whoever no longer runs the stream need not hear of its failure.
            self.failure.exception()

    async def get(self) -> ResponseT | None:
        """Waits for the next response.

        Returns:
            The response, or None after the last one.
        """
        while True:
            if self._responses:
                response, num_bytes = self._responses.popleft()
                self._num_bytes -= num_bytes
                return response
            if self._finished:
                return None
            self._wakeup.clear()
            await self._wakeup.wait()


async def run_duplex(
    requests: AsyncIterator[RequestT],
    context: grpc.aio.ServicerContext[Any, Any],
    outbox: Outbox[Any],
    apply: Callable[[RequestT], Awaitable[None]],
    end: Callable[[], None],
) -> None:
    """Applies requests and writes what the outbox receives, until the outbox is finished.

    Args:
        requests: What the client sends.
        context: Where responses are written.
        outbox: What to write. An exception of `apply` or `end` finishes it.
        apply: Called with each request; the next one is read when it returns.
        end: Called when the client has sent its last request; sees to it that the outbox is finished in time.

    Raises:
        BaseException: What the outbox was finished with.
    """

    async def read() -> None:
        async for request in requests:
            await apply(request)
        end()

    async def write() -> None:
        while (response := await outbox.get()) is not None:
            await context.write(response)

    def report(task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()):
            outbox.finish(error)

    # Sent with the first response otherwise; while that one is stuck, the stream couldn't be ended with a status.
    await context.send_initial_metadata(())
    reading, writing = asyncio.create_task(read()), asyncio.create_task(write())
    reading.add_done_callback(report)
    try:
        # A client that reads nothing can hold up a write for ever, but not the end of its stream.
        await asyncio.wait({writing, outbox.failure}, return_when=asyncio.FIRST_COMPLETED)
        await (outbox.failure if outbox.failure.done() else writing)
    finally:
        reading.cancel()
        writing.cancel()
        await asyncio.wait({reading, writing})
