"""The client for callers without an event loop: `AsyncClient` in a thread of its own."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Coroutine, Generator, Sequence
from concurrent.futures import Future
from contextlib import aclosing
from typing import Any, TypeVar

from trivium.v1 import orchestrator_pb2 as pb

from services.client.client import AsyncClient, OnRetry
from services.client.completion import Completion

T = TypeVar("T")

_END_TIMEOUT_S = 1.0


class Client:
    """Asks orchestrators, and goes on at another one where one is lost. A context manager; threads may share it.

    Args:
        targets: As `AsyncClient`.
        options: Keyword arguments of `AsyncClient`.
    """

    def __init__(self, targets: Sequence[str] | str, **options: Any) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="trivium-client", daemon=True)
        self._thread.start()
        try:
            self._client = self._run(_make(targets, options))
        except BaseException:
            self._stop()
            raise

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends all calls and closes all connections."""
        try:
            self._run(_end(self._client))
        finally:
            self._stop()

    def generate(
        self, request: pb.GenerateRequest, *, timeout_s: float | None = None, on_retry: OnRetry | None = None
    ) -> Generator[pb.GenerateResponse, None, None]:
        """Streams an answer, as `AsyncClient.generate`. Closing the generator ends the request on its orchestrator.

        Raises:
            GenerationFailed: As there.
        """
        arrived: queue.SimpleQueue[pb.GenerateResponse | Future[None]] = queue.SimpleQueue()

        async def receive() -> None:
            stream = self._client.generate(request, timeout_s=timeout_s, on_retry=on_retry)
            async with aclosing(stream) as responses:
                async for response in responses:
                    arrived.put(response)

        receiving = self._start(receive())
        receiving.add_done_callback(arrived.put)
        try:
            while not isinstance(item := arrived.get(), Future):
                yield item
            item.result()
        finally:
            receiving.cancel()

    def complete(
        self, request: pb.GenerateRequest, *, timeout_s: float | None = None, on_retry: OnRetry | None = None
    ) -> Completion:
        """Waits for a whole answer.

        Raises:
            GenerationFailed: As `generate`.
        """
        return self._run(self._client.complete(request, timeout_s=timeout_s, on_retry=on_retry))

    def cancel(self, request_id: str) -> bool:
        """Ends a request, as `AsyncClient.cancel`."""
        return self._run(self._client.cancel(request_id))

    def server_info(self) -> pb.OrchestratorServiceGetServerInfoResponse:
        """Asks an orchestrator what is served.

        Raises:
            CallFailed: None answers.
        """
        return self._run(self._client.server_info())

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        future = self._start(coroutine)
        try:
            return future.result()
        except BaseException:
            # Ctrl-C while it waits: what it waits for is to end as well.
            future.cancel()
            raise

    def _start(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _end(client: AsyncClient) -> None:
    await client.close()
    # What was cancelled, as by Ctrl-C, still has to come to its end.
    rest = asyncio.all_tasks() - {asyncio.current_task()}
    for task in rest:
        task.cancel()
    if rest:
        await asyncio.wait(rest, timeout=_END_TIMEOUT_S)


async def _make(targets: Sequence[str] | str, options: dict[str, Any]) -> AsyncClient:
    # In the loop that its channels belong to.
    return AsyncClient(targets, **options)
