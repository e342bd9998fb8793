"""What both engines have in common: SGLang's process, and the requests that run on it for sequences.

Owns the task that reads what SGLang says, who may have a request now, what becomes of a sequence whose request fails,
and the load counters. What a request is for is the engines' own. All state is changed on the event loop.

The pump reads SGLang's messages. An exception while it takes one in costs the sequence that the message is about, and
the next pump goes on; where SGLang itself or the stream from it is broken, the engine has ended, and `step` says so.

**The budget and SGLang's own cache.** The engine keeps account of what sequences hold, and asks SGLang for no more:
the prefixes of all requests at once, and what is taken in of their drafts, never exceed `kv_cache_tokens`. SGLang's
pool is larger than that by what its running requests may draft before the engine hears of it (`server_args`), so
SGLang doesn't run out of room by what the engine asks for. One overlap is left: an aborted request holds its KV for
one more pass, while its room has been given to another. Then SGLang keeps the newcomer in its queue for that pass, or
retracts a running request: puts it back into its queue with the tokens that it has, and recomputes their KV. Either
costs time and no token, since a token depends on those before it alone. KV that the engine counts, but that none of
SGLang's requests uses now, is cache to SGLang, and may be gone when the next one asks for it: that costs a prefill.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Generic, TypeVar

from services.common.errors import InvalidRequest, ModelNotReady, TriviumError
from services.engines.base import GREEDY, EngineLoad, EngineOptions, ModelInfo, ModelLoadError, Refusal
from services.engines.preemption import share_out
from services.engines.room import TokenRoom
from services.engines.sglang.chunks import CACHE_CLEARED, PROGRESS, Chunk, unpack_chunk
from services.engines.sglang.process import SglangProcess
from services.engines.sglang.troubles import Trouble, error_for

_MAX_TRIES = 6
_FIRST_RETRY_S = 0.1

logger = logging.getLogger(__name__)


class HeldSequence:
    """A sequence that an engine keeps the tokens of.

    Args:
        sequence_id: The sequence.
        token_ids: Its tokens; belongs to the sequence.
        priority: When it was admitted, in microseconds.
    """

    def __init__(self, sequence_id: int, token_ids: list[int], priority: int) -> None:
        self.sequence_id = sequence_id
        self.token_ids = token_ids
        self.priority = priority
        self.request_id: str | None = None
        self.num_failures = 0
        """Requests that failed in a row, for reasons that pass."""
        self.retry: asyncio.TimerHandle | None = None


S = TypeVar("S", bound=HeldSequence)


class SglangEngine(ABC, Generic[S]):
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
        self._options = options
        self._process = process or SglangProcess(options, has_features=has_features)
        self._sequences: dict[int, S] = {}
        self._requests: dict[str, S] = {}
        self._room: TokenRoom[S] = TokenRoom(
            options.kv_cache_tokens, needed=self._num_needed, is_cache=self._is_cache, preempt=self._preempt
        )
        self._without_room: dict[int, S] = {}
        self._room_timer: asyncio.TimerHandle | None = None
        self._refusals: dict[int, Refusal] = {}
        self._counts = EngineLoad(num_kv_tokens_capacity=options.kv_cache_tokens)
        self._wake = asyncio.Event()
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
        self._without_room.clear()
        self._let_in()
        for sequence in self._sequences.values():
            self._detach(sequence)
            self._room.free(sequence)
        self._sequences.clear()
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
    def _num_needed(self, sequence: S) -> int:
        """Tokens that the sequence must hold to go on."""

    @abstractmethod
    def _is_cache(self, sequence: S) -> bool:
        """Whether the sequence has no work, and what it holds is for whoever needs it."""

    @abstractmethod
    def _has_work(self, sequence: S) -> bool:
        """Whether the sequence has or needs a request."""

    @abstractmethod
    def _submit(self, sequence: S) -> str:
        """Starts the sequence's next request and returns its id. There is room for it."""

    @abstractmethod
    def _take(self, sequence: S, chunk: Chunk) -> None:
        """Takes in what SGLang says about the sequence's request."""

    def _next_cache_s(self) -> float | None:
        """Seconds until what a sequence holds becomes cache; None if nothing does by itself."""
        return None

    @property
    def _num_waiting(self) -> int:
        return max(0, len(self._requests) - self._options.max_batch_size)

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
            self._refuse(sequence, TriviumError(f"SGLang's output for the sequence can't be used: {error!r}"))
            self._start_pump()

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
            return
        # SGLang has ended the request by itself.
        self._detach(sequence)
        sequence.num_failures += 1
        if chunk.trouble is not Trouble.PASSES or sequence.num_failures == _MAX_TRIES:
            self._refuse(sequence, error_for(chunk.trouble, chunk.message))
            return
        delay_s = _FIRST_RETRY_S * 2 ** (sequence.num_failures - 1)
        logger.warning("SGLang put off sequence %s: %s", sequence.sequence_id, chunk.message)
        sequence.retry = asyncio.get_running_loop().call_later(delay_s, self._try_again, sequence)

    def _try_again(self, sequence: S) -> None:
        sequence.retry = None
        self._go_on(sequence)

    def _go_on(self, sequence: S) -> None:
        """Lets a sequence that has work and no request have the next one, as soon as there is room."""
        if sequence.request_id is not None or sequence.retry is not None:
            return
        if self._has_work(sequence):
            self._without_room[sequence.sequence_id] = sequence
        else:
            self._without_room.pop(sequence.sequence_id, None)
        self._let_in()

    def _let_in(self) -> None:
        """Starts the requests of those for whom there is room now. To be called whenever there may be more of it."""
        if self._room_timer is not None:
            self._room_timer.cancel()
            self._room_timer = None
        if not self._without_room:
            return
        due = [sequence for sequence in self._sequences.values() if self._has_work(sequence)]
        for sequence in share_out(due, self._room):
            if self._without_room.pop(sequence.sequence_id, None) is not None:
                self._begin_request(sequence)
        if self._without_room and (delay_s := self._next_cache_s()) is not None:
            self._room_timer = asyncio.get_running_loop().call_later(delay_s, self._let_in)

    def _begin_request(self, sequence: S) -> None:
        sequence.request_id = self._submit(sequence)
        self._requests[sequence.request_id] = sequence

    def _preempt(self, sequence: S) -> None:
        self._abort(sequence)
        if self._has_work(sequence):
            self._without_room[sequence.sequence_id] = sequence

    def _detach(self, sequence: S) -> None:
        if sequence.request_id is not None:
            del self._requests[sequence.request_id]
            sequence.request_id = None
        if sequence.retry is not None:
            sequence.retry.cancel()
            sequence.retry = None

    def _abort(self, sequence: S) -> None:
        if sequence.request_id is not None:
            self._process.abort(sequence.request_id)
        self._detach(sequence)

    def _forget(self, sequence_id: int) -> None:
        """Frees a sequence. Unknown sequences are ignored."""
        self._refusals.pop(sequence_id, None)
        sequence = self._sequences.pop(sequence_id, None)
        if sequence is not None:
            self._abort(sequence)
            self._room.free(sequence)
            self._without_room.pop(sequence_id, None)
            self._let_in()

    def _refuse(self, sequence: S, error: Exception) -> None:
        self._forget(sequence.sequence_id)
        self._refusals[sequence.sequence_id] = Refusal(sequence.sequence_id, error)
        self._wake.set()

    def _take_refusals(self) -> list[Refusal]:
        refusals, self._refusals = list(self._refusals.values()), {}
        return refusals


def _check_options(options: EngineOptions) -> None:
    for field in ("max_batch_size", "prefill_chunk_len", "kv_cache_tokens", "tp_size"):
        if getattr(options, field) < 1:
            raise ValueError(f"{field}: at least 1, got {getattr(options, field)}")
