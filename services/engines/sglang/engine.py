"""What both engines have in common: SGLang's process, the requests on it, and the KV budget.

Owns the task that reads chunks, the load counters, and the checks of token ids. All state is changed on the event
loop.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Generic, TypeVar

from services.common.errors import CapacityExceeded, InvalidRequest, ModelNotReady
from services.engines.base import GREEDY, EngineLoad, EngineOptions, ModelInfo, ModelLoadError, Refusal
from services.engines.sglang.process import CACHE_CLEARED, Chunk, SglangProcess


class HeldSequence:
    """A sequence that an engine keeps the tokens of.

    Args:
        sequence_id: The sequence.
        token_ids: Its tokens; belongs to the sequence.
    """

    def __init__(self, sequence_id: int, token_ids: list[int]) -> None:
        self.sequence_id = sequence_id
        self.token_ids = token_ids
        self.request_id: str | None = None


S = TypeVar("S", bound=HeldSequence)


class SglangEngine(ABC, Generic[S]):
    """Base of both engines.

    Args:
        options: How to set it up.
        has_features: Whether each token comes with router features.

    Raises:
        ValueError: An option is out of range; the message names it.
    """

    def __init__(self, options: EngineOptions, *, has_features: bool) -> None:
        _check_options(options)
        self._options = options
        self._process = SglangProcess(options, has_features=has_features)
        self._sequences: dict[int, S] = {}
        self._requests: dict[str, S] = {}
        self._refusals: list[Refusal] = []
        self._counts = EngineLoad(num_kv_tokens_capacity=options.kv_cache_tokens)
        self._wake = asyncio.Event()
        self._info: ModelInfo | None = None
        self._pump: asyncio.Task[None] | None = None
        self._failure: BaseException | None = None
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
            num_kv_tokens_used=self._num_held_tokens,
        )

    async def start(self) -> None:
        """Starts SGLang and runs a warm-up pass.

        Raises:
            ModelLoadError: The model can't be loaded; the message names the file or field.
        """
        self._info = await self._process.start()
        try:
            await self._warm_up()
        except ModelNotReady as error:
            await self._process.stop()
            raise ModelLoadError(f"model {self._options.model!r}: the warm-up pass failed: {error}") from error
        self._pump = asyncio.create_task(self._read_chunks())

    async def stop(self) -> None:
        """Ends SGLang and every process of it. A `step` that waits raises CancelledError."""
        if self._pump is not None:
            self._pump.cancel()
        self._failure = asyncio.CancelledError("the engine has been stopped")
        self._wake.set()
        await self._process.stop()
        self._sequences.clear()
        self._requests.clear()

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
        if self._cleared.error:
            raise ModelNotReady(self._cleared.error)

    @abstractmethod
    def _take(self, sequence: S, chunk: Chunk) -> None:
        """Takes in what SGLang says about the sequence's request."""

    @property
    def _num_waiting(self) -> int:
        return max(0, len(self._requests) - self._options.max_batch_size)

    @property
    def _num_held_tokens(self) -> int:
        # A copy, since metrics are read on another thread.
        return sum(len(sequence.token_ids) for sequence in tuple(self._sequences.values()))

    @property
    def _num_free_tokens(self) -> int:
        return self._options.kv_cache_tokens - self._num_held_tokens

    def _check_room(self, num_tokens: int) -> None:
        if num_tokens > (num_free := self._num_free_tokens):
            raise CapacityExceeded(f"kv_cache_tokens: {num_tokens} more are needed, {num_free} are free")

    async def _warm_up(self) -> None:
        self._process.submit([0, 0], max_new_tokens=2, sampling=GREEDY)
        is_last = False
        while not is_last:
            chunk = await self._process.next_chunk()
            if chunk.error:
                raise ModelNotReady(chunk.error)
            is_last = chunk.is_last

    async def _read_chunks(self) -> None:
        try:
            while True:
                chunk = await self._process.next_chunk()
                if chunk.request_id == CACHE_CLEARED:
                    self._cleared = chunk
                    self._wake.set()
                # Chunks of aborted requests belong to no sequence any more.
                sequence = self._requests.get(chunk.request_id)
                if sequence is not None:
                    self._count(chunk)
                    self._take(sequence, chunk)
                    self._wake.set()
        except ModelNotReady as error:
            self._failure = error
            self._wake.set()

    async def _wait_for_news(self) -> None:
        if self._failure is not None:
            raise self._failure
        self._wake.clear()
        await self._wake.wait()

    def _count(self, chunk: Chunk) -> None:
        if chunk.rows:
            self._counts.num_steps = max(self._counts.num_steps, chunk.rows[-1].num_steps)
            self._counts.num_rows = max(self._counts.num_rows, chunk.rows[-1].num_rows)

    def _attach(self, sequence: S, request_id: str) -> None:
        sequence.request_id = request_id
        self._requests[request_id] = sequence

    def _detach(self, sequence: S) -> None:
        if sequence.request_id is not None:
            del self._requests[sequence.request_id]
            sequence.request_id = None

    def _abort(self, sequence: S) -> None:
        if sequence.request_id is not None:
            self._process.abort(sequence.request_id)
            self._detach(sequence)

    def _refuse(self, sequence: S, error: Exception) -> None:
        self._abort(sequence)
        del self._sequences[sequence.sequence_id]
        self._refusals.append(Refusal(sequence.sequence_id, error))
        self._wake.set()

    def _take_refusals(self) -> list[Refusal]:
        refusals, self._refusals = self._refusals, []
        return refusals

    def _check_token_ids(self, token_ids: Sequence[int]) -> None:
        vocab_size = self.info.vocab_size
        if token_ids and not (min(token_ids) >= 0 and max(token_ids) < vocab_size):
            wrong = next(token_id for token_id in token_ids if not 0 <= token_id < vocab_size)
            raise InvalidRequest(f"token_ids: {wrong} is outside the vocabulary of {vocab_size}")


def _check_options(options: EngineOptions) -> None:
    for field in ("max_batch_size", "prefill_chunk_len", "kv_cache_tokens", "tp_size"):
        if getattr(options, field) < 1:
            raise ValueError(f"{field}: at least 1, got {getattr(options, field)}")
