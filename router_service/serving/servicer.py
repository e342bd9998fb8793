"""Serves a router to many streams.

Owns the check of features, which stream gets which scores, and the change to another router. Doesn't know torch.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray
from trivium.v1 import router_pb2, router_pb2_grpc

from router_service.serving.batcher import Batcher, Rows
from router_service.serving.followed import CheckpointSource, FollowedCheckpoint
from router_service.serving.versions import Versions
from services.common.errors import Draining, InvalidRequest, TriviumError
from services.common.serving.duplex import Outbox, run_duplex
from services.common.serving.lifecycle import Lifecycle
from services.common.serving.telemetry import Telemetry
from services.common.tensors import pack, unpack

_LOOK_S = 1.0

SERVICE_NAME = router_pb2.DESCRIPTOR.services_by_name["RouterService"].full_name


class _Stream:
    """The unanswered requests of one stream, how many rows they have, and its joint end."""

    def __init__(self, max_pending_bytes: int) -> None:
        self.outbox: Outbox[router_pb2.ScoreResponse] = Outbox(max_pending_bytes)
        self.is_open = True
        self.num_rows = 0
        self._num_unanswered = 0
        self._ending = False
        self._error: TriviumError | None = None

    def ask(self, num_rows: int) -> None:
        self.num_rows += num_rows
        self._num_unanswered += 1

    def answer(self, response: router_pb2.ScoreResponse, num_rows: int) -> None:
        self.outbox.put(response)
        self.num_rows -= num_rows
        self._num_unanswered -= 1
        self._finish_if_answered()

    def tell(self, news: router_pb2.ScoreResponse) -> None:
        """Sends what was not asked for."""
        if not self._ending:
            self.outbox.put(news)

    def end(self, error: TriviumError | None = None) -> None:
        """Finishes the stream once everything asked so far is answered."""
        if not self._ending:
            self._ending = True
            self._error = error
            self._finish_if_answered()

    def _finish_if_answered(self) -> None:
        if self._ending and not self._num_unanswered:
            self.outbox.finish(self._error)


class RouterServicer(router_pb2_grpc.RouterServiceServicer):
    """Scores the drafted tokens of all streams.

    Args:
        source: The router that decides.
        lifecycle: The state of this process.
        shadow: A router that decides nothing, if there is one.
        max_versions: Routers that are held at most, for sequences that began with them.
        max_batch_rows: Most rows in one forward.
        max_waiting_rows: Rows that may wait before no more requests are read.
        max_pending_bytes: Most bytes of scores that may wait for a slow reader, per stream.
    """

    def __init__(
        self,
        source: CheckpointSource,
        lifecycle: Lifecycle,
        *,
        shadow: CheckpointSource | None = None,
        max_versions: int = 4,
        max_batch_rows: int = 1024,
        max_waiting_rows: int = 8192,
        max_pending_bytes: int = 16 * 2**20,
    ) -> None:
        self._lifecycle = lifecycle
        self._max_pending_bytes = max_pending_bytes
        self._streams: set[_Stream] = set()
        self._max_versions = max_versions
        self._versions: Versions
        self._router = FollowedCheckpoint(source)
        self._shadow = FollowedCheckpoint(shadow) if shadow else None
        self._batcher = Batcher(max_batch_rows=max_batch_rows, max_waiting_rows=max_waiting_rows)

    def register(self, server: grpc.aio.Server) -> None:
        """Adds this servicer to a server."""
        router_pb2_grpc.add_RouterServiceServicer_to_server(self, server)

    async def start(self) -> None:
        """Loads the router, and its shadow, and warms them up.

        Raises:
            CheckpointError: One can't be loaded, or reads another number of logits than SLM services send; or the
                shadow is of another SLM.
        """
        self._versions = Versions(await self._router.load(), self._max_versions)
        if self._shadow:
            self._versions.cast_shadow(await self._shadow.load())

    async def run(self) -> None:
        """Scores what waits, and follows the files of router and shadow, for as long as the process lives."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._batcher.run())
            tasks.create_task(self._follow())

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_S)
            if self._router.has_changed():
                await self.swap()
            if self._shadow and self._shadow.has_changed() and await self._shadow.change(self._versions.cast_shadow):
                self._tell_all()

    async def swap(self) -> None:
        """Loads the router anew, and serves it from now on. One that can't be served changes nothing."""
        if await self._router.change(self._versions.swap):
            self._tell_all()

    def _tell_all(self) -> None:
        for stream in self._streams:
            stream.tell(self._news())

    async def drain(self) -> None:
        """Ends every stream as soon as what was read from it is answered."""
        for stream in self._streams:
            stream.end(Draining(f"{SERVICE_NAME} is about to stop"))

    async def stop(self) -> None:
        """Nothing outlives the process."""

    def instrument(self, telemetry: Telemetry) -> None:
        """Adds the router's metrics."""
        batcher = self._batcher
        telemetry.gauge(
            "trivium_router_batch_rows",
            "Drafted tokens in the forward pass that runs now.",
            lambda: batcher.num_rows_in_batch,
        )
        telemetry.gauge(
            "trivium_router_waiting_rows",
            "Drafted tokens that wait for a forward pass.",
            lambda: batcher.num_rows_waiting,
        )
        telemetry.gauge(
            "trivium_router_checkpoint_current",
            "1 while the router that is served is that of the checkpoint's directory; 0 while that one can't be.",
            lambda: not self._router.refused,
        )
        telemetry.gauge(
            "trivium_router_shadow_current",
            "1 while the shadow is that of its checkpoint's directory, or there is none; 0 while that one can't be.",
            lambda: not (self._shadow and self._shadow.refused),
        )
        telemetry.counter(
            "trivium_router_swaps_total", "Times that another router took over.", lambda: self._router.num_changes
        )
        telemetry.counter("trivium_router_passes_total", "Forward passes.", lambda: batcher.num_steps)
        telemetry.counter("trivium_router_rows_total", "Drafted tokens scored.", lambda: batcher.num_rows)

    async def GetServerInfo(
        self,
        request: router_pb2.RouterServiceGetServerInfoRequest,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> router_pb2.RouterServiceGetServerInfoResponse:
        """Describes the router, the process and its load."""
        return self._describe()

    def _describe(self) -> router_pb2.RouterServiceGetServerInfoResponse:
        return router_pb2.RouterServiceGetServerInfoResponse(
            router=self._versions.current.info,
            replica=self._lifecycle.replica_info(),
            load=router_pb2.RouterLoad(
                num_rows_waiting=self._batcher.num_rows_waiting,
                num_steps=self._batcher.num_steps,
                num_rows=self._batcher.num_rows,
            ),
            held_weights_sha256=self._versions.held,
            refused_checkpoint=self._router.refused,
            shadow=self._versions.shadow.info if self._versions.shadow else None,
        )

    def _news(self) -> router_pb2.ScoreResponse:
        return router_pb2.ScoreResponse(news=self._describe())

    # grpc.aio also takes a coroutine that writes; the stub's type knows only iterators.
    async def Score(  # type: ignore[override]
        self,
        request_iterator: AsyncIterator[router_pb2.ScoreRequest],
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> None:
        """Serves one stream until its client ends it."""
        stream = _Stream(self._max_pending_bytes)
        self._streams.add(stream)
        if self._router.num_changes or (self._shadow and self._shadow.num_changes):
            # Its client may have asked what is served a moment before the last change.
            stream.tell(self._news())
        try:
            await run_duplex(request_iterator, context, stream.outbox, partial(self._submit, stream), stream.end)
        finally:
            stream.is_open = False
            self._streams.remove(stream)

    async def _submit(self, stream: _Stream, request: router_pb2.ScoreRequest) -> None:
        scorer = self._versions.named(request.weights_sha256)
        if scorer is None:
            stream.tell(router_pb2.ScoreResponse(batch_id=request.batch_id, weights_unknown=True))
            return
        token_ids = _token_ids(request, scorer.info.vocab_size)
        num_rows, hidden_size = len(token_ids), scorer.info.hidden_size
        hidden_states = unpack(request.hidden_states, field="hidden_states", shape=(num_rows, hidden_size))
        top_logits = unpack(request.top_logits, field="top_logits", shape=(num_rows, scorer.num_top_logits))
        stream.ask(num_rows)
        await self._batcher.submit(
            Rows(
                token_ids=token_ids,
                hidden_states=hidden_states,
                top_logits=top_logits,
                score=scorer.score,
                deliver=partial(self._deliver, stream, request.batch_id),
                is_wanted=lambda: stream.is_open,
            )
        )

    def _deliver(self, stream: _Stream, batch_id: int, probabilities: NDArray[np.float32]) -> None:
        response = router_pb2.ScoreResponse(
            batch_id=batch_id,
            divergence_probabilities=pack(probabilities),
            num_other_rows=sum(other.num_rows for other in self._streams if other is not stream),
        )
        stream.answer(response, len(probabilities))


def _token_ids(request: router_pb2.ScoreRequest, vocab_size: int) -> NDArray[np.int64]:
    token_ids = np.array(request.token_ids, dtype=np.int64)
    if not len(token_ids):
        raise InvalidRequest("token_ids: there are none")
    if (largest := token_ids.max()) >= vocab_size:
        raise InvalidRequest(f"token_ids: {largest} is outside the vocabulary of {vocab_size}")
    return token_ids
