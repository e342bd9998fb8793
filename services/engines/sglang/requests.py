"""Which sequence has a request on SGLang, which waits for one, and which has to give its own up.

Owns the engine's account of the KV budget, the requests that run, those that are tried again, and the sequences that
are given up. What SGLang says, and what a request is for, is the engines'.

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
from typing import Generic, TypeVar

from services.engines.base import EngineOptions, Refusal
from services.engines.preemption import share_out
from services.engines.room import TokenRoom
from services.engines.sglang.process import SglangProcess
from services.engines.sglang.troubles import Trouble, error_for

MAX_TRIES = 6
"""Most requests for the same tokens that SGLang fails before the sequence is given up."""

FIRST_RETRY_S = 0.1
"""How long a sequence waits after a failed request before it is tried again, in seconds; doubles each time."""

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


class SequenceRequests(ABC, Generic[S]):
    """The sequences of an engine, and at most one request for each.

    Args:
        options: The engine's options.
        process: Where requests run.
    """

    def __init__(self, options: EngineOptions, process: SglangProcess) -> None:
        self._options = options
        self._process = process
        self._sequences: dict[int, S] = {}
        self._requests: dict[str, S] = {}
        self._room: TokenRoom[S] = TokenRoom(
            options.kv_cache_tokens, needed=self._num_needed, is_cache=self._is_cache, preempt=self._preempt
        )
        self._without_room: dict[int, S] = {}
        self._letting_in: asyncio.Handle | None = None
        self._refusals: dict[int, Refusal] = {}
        # Set when there is something to tell.
        self._wake = asyncio.Event()

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

    def _next_cache_s(self) -> float | None:
        """Seconds until what a sequence holds becomes cache; None if nothing does by itself."""
        return None

    @property
    def _num_waiting(self) -> int:
        return max(0, len(self._requests) - self._options.max_batch_size)

    def _failed(self, sequence: S, trouble: Trouble, message: str) -> None:
        """Takes in that SGLang has ended the sequence's request by itself."""
        self._detach(sequence)
        sequence.num_failures += 1
        if trouble is not Trouble.PASSES or sequence.num_failures == MAX_TRIES:
            self._refuse(sequence, error_for(trouble, message))
            return
        delay_s = FIRST_RETRY_S * 2 ** (sequence.num_failures - 1)
        logger.warning("SGLang put off sequence %s: %s", sequence.sequence_id, message)
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
        self._let_in_soon()

    def _let_in_soon(self) -> None:
        """To be called whenever there may be more room. Who asks together is served together, the oldest first."""
        self._stop_waiting()
        if self._without_room:
            self._letting_in = asyncio.get_running_loop().call_soon(self._let_in)

    def _stop_waiting(self) -> None:
        if self._letting_in is not None:
            self._letting_in.cancel()
            self._letting_in = None

    def _let_in(self) -> None:
        """Starts the requests of those for whom there is room now."""
        self._letting_in = None
        due = [sequence for sequence in self._sequences.values() if self._has_work(sequence)]
        for sequence in share_out(due, self._room):
            if self._without_room.pop(sequence.sequence_id, None) is not None:
                self._begin_request(sequence)
        if self._without_room and (delay_s := self._next_cache_s()) is not None:
            self._letting_in = asyncio.get_running_loop().call_later(delay_s, self._let_in)

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
            self._let_in_soon()

    def _drop_all(self) -> None:
        """Forgets every sequence without a word to SGLang."""
        self._without_room.clear()
        self._stop_waiting()
        for sequence in self._sequences.values():
            self._detach(sequence)
            self._room.free(sequence)
        self._sequences.clear()

    def _refuse(self, sequence: S, error: Exception) -> None:
        self._forget(sequence.sequence_id)
        self._refusals[sequence.sequence_id] = Refusal(sequence.sequence_id, error)
        self._wake.set()

    def _take_refusals(self) -> list[Refusal]:
        refusals, self._refusals = list(self._refusals.values()), {}
        return refusals
