"""What both engines have in common: the life of SGLang's process, and what it says.

Owns the task that reads SGLang's messages, what a message that can't be used costs, and the load counters. Which
sequence has a request is `services.engines.sglang.requests`', what a request is for is the engines' own. All state is
changed on the event loop.

The pump reads SGLang's messages. An exception while it takes one in costs the sequence that the message is about, and
the next pump goes on; where SGLang itself or the stream from it is broken, the engine has ended, and `step` says so.
"""

from __future__ import annotations

import asyncio
import logging
from abc import abstractmethod
from dataclasses import replace
from typing import TypeVar

from services.common.errors import InvalidRequest, ModelNotReady, TriviumError
from services.engines.base import GREEDY, EngineLoad, EngineOptions, ModelInfo, ModelLoadError
from services.engines.sglang.chunks import CACHE_CLEARED, PROGRESS, Chunk, unpack_chunk
from services.engines.sglang.process import SglangProcess
from services.engines.sglang.requests import HeldSequence, SequenceRequests

logger = logging.getLogger(__name__)


S = TypeVar("S", bound=HeldSequence)


class SglangEngine(SequenceRequests[S]):
    """Base of both engines.

    Args:
        options: How to set it up.
        has_features: Whether each token comes with router features.
        process: SGLang's process; None starts a real one.

    Raises:
        ValueError: An option is out of range; the message names it.
    """

    def __init__(self, options: EngineOptions, *, has_features: bool, process: SglangProcess | None = None) -> None:
        _check_options(options)
        super().__init__(options, process or SglangProcess(options, has_features=has_features))
        self._counts = EngineLoad(num_kv_tokens_capacity=options.kv_cache_tokens)
        self._info: ModelInfo | None = None
        self._pump: asyncio.Task[None] | None = None
        self._taking: S | None = None
        self._is_stopped = False
        self._broken = ""
        self._has_progressed = False
        self._cleared: Chunk | None = None

    @property
    def info(self) -> ModelInfo:
        """What the model is. Valid after `start`."""
        if self._info is None:
            raise ModelNotReady("the engine has not been started")
        return self._info

    @property
    def load(self) -> EngineLoad:
        """A snapshot of what the engine is doing. Steps and rows are counted by SGLang's scheduler."""
        return replace(
            self._counts,
            num_active_sequences=len(self._sequences),
            num_waiting_sequences=self._num_waiting,
            num_kv_tokens_used=self._room.num_used,
            num_preemptions=self._room.num_preemptions,
            num_sequences_without_room=len(self._without_room),
        )

    async def start(self) -> None:
        """Starts SGLang and runs a warm-up pass.

        Raises:
            ModelLoadError: The model can't be loaded; the message names the file or field.
        """
        self._info = await self._process.start()
        try:
            await self._warm_up()
        except (ModelNotReady, ValueError) as error:
            await self._process.stop()
            raise ModelLoadError(f"model {self._options.model!r}: the warm-up pass failed: {error}") from error
        self._start_pump()

    async def stop(self) -> None:
        """Ends SGLang and every process of it. A `step` that waits raises CancelledError."""
        self._is_stopped = True
        if self._pump is not None:
            self._pump.cancel()
        self._wake.set()
        self._drop_all()
        await self._process.stop()

    async def clear_prefix_cache(self) -> None:
        """Empties SGLang's prefix cache.

        Raises:
            InvalidRequest: A sequence is open.
            ModelNotReady: SGLang has ended, or didn't become idle.
        """
        if self._sequences:
            raise InvalidRequest(f"sequence_id: {next(iter(self._sequences))} is open")
        self._cleared = None
        self._process.clear_cache()
        while self._cleared is None:
            await self._wait_for_news()
        if self._cleared.trouble is not None:
            raise ModelNotReady(f"SGLang's prefix cache can't be emptied: {self._cleared.message}")

    @abstractmethod
    def _take(self, sequence: S, chunk: Chunk) -> None:
        """Takes in what SGLang says about the sequence's request."""

    async def _warm_up(self) -> None:
        self._process.submit([0, 0], max_new_tokens=2, sampling=GREEDY)
        is_last = False
        while not is_last:
            chunk = unpack_chunk(*await self._process.next_message())
            if chunk.trouble is not None:
                raise ModelNotReady(chunk.message)
            is_last = chunk.is_last and chunk.request_id != PROGRESS

    def _start_pump(self) -> None:
        self._pump = asyncio.create_task(self._read_messages())
        self._pump.add_done_callback(self._pump_ended)

    async def _read_messages(self) -> None:
        while True:
            header, body = await self._process.next_message()
            # Messages about aborted requests are about no sequence any more.
            self._taking = self._requests.get(header.get("request_id", ""))
            if self._taking is not None:
                self._take_in(self._taking, unpack_chunk(header, body))
                self._taking = None
            elif header.get("request_id") == PROGRESS:
                # Of others' requests, if none is left.
                self._has_progressed = bool(self._requests)
            elif header.get("request_id") == CACHE_CLEARED:
                self._cleared = unpack_chunk(header, body)
            else:
                continue
            self._wake.set()

    def _pump_ended(self, pump: asyncio.Task[None]) -> None:
        """Decides what an exception costs: the sequence that it came with, or the engine."""
        if pump.cancelled() or (error := pump.exception()) is None:
            return
        sequence, self._taking = self._taking, None
        if sequence is None:
            logger.error("what SGLang says can't be read any more", exc_info=error)
            self._broken = (
                str(error) if isinstance(error, ModelNotReady) else f"SGLang can't be understood: {error!r}"
            )
            self._wake.set()
        else:
            logger.error("SGLang's output for sequence %s can't be used", sequence.sequence_id, exc_info=error)
            self._start_pump()
            self._refuse(sequence, TriviumError(f"SGLang's output for the sequence can't be used: {error!r}"))

    async def _wait_for_news(self) -> None:
        if self._is_stopped:
            raise asyncio.CancelledError("the engine has been stopped")
        if self._broken:
            raise ModelNotReady(self._broken)
        self._wake.clear()
        await self._wake.wait()

    def _take_in(self, sequence: S, chunk: Chunk) -> None:
        if chunk.trouble is None:
            sequence.num_failures = 0
            if chunk.rows:
                self._counts.num_steps = max(self._counts.num_steps, chunk.rows[-1].num_steps)
                self._counts.num_rows = max(self._counts.num_rows, chunk.rows[-1].num_rows)
            self._take(sequence, chunk)
        else:
            self._failed(sequence, chunk.trouble, chunk.message)


def _check_options(options: EngineOptions) -> None:
    for field in ("max_batch_size", "prefill_chunk_len", "kv_cache_tokens", "tp_size"):
        if getattr(options, field) < 1:
            raise ValueError(f"{field}: at least 1, got {getattr(options, field)}")
