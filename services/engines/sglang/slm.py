"""The small model's engine on SGLang.

Owns windows, epochs and stop tokens. Drafting ahead is one streaming request, as long as the window that was granted
when it started. A grant beyond it starts another with the longer prefix, whose KV SGLang still has; a rewind aborts
and starts one.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.common.errors import (
    CapacityExceeded,
    ContextLengthExceeded,
    InvalidRequest,
    PrefixConflict,
    PrefixNotFound,
)
from services.engines.base import GREEDY, TOP_LOGITS, DraftStep, EngineOptions, Opened, SamplingParams
from services.engines.sglang.engine import HeldSequence, SglangEngine
from services.engines.sglang.process import Chunk
from services.engines.sglang.rows import Row
from services.engines.sglang.server_args import MAX_DRAFTS


@dataclass(frozen=True, slots=True)
class _Draft:
    position: int
    token_id: int
    row: Row
    num_waiting: int


class DraftedSequence(HeldSequence):
    """A sequence that the SLM continues."""

    def __init__(
        self, sequence_id: int, token_ids: list[int], stop_token_ids: frozenset[int], sampling: SamplingParams
    ) -> None:
        super().__init__(sequence_id, token_ids)
        self.stop_token_ids = stop_token_ids
        self.sampling = sampling
        self.epoch = 0
        self.draft_until = 0
        self.at_stop_token = False
        self.opened: Opened | None = None
        # Drafted and not yet handed out, oldest first.
        self.drafts: deque[_Draft] = deque()


class SglangSlmEngine(SglangEngine[DraftedSequence]):
    """`SlmEngine` on SGLang; see `services.engines.base`."""

    def __init__(self, options: EngineOptions) -> None:
        super().__init__(options, has_features=True)
        self._opened: list[Opened] = []
        self._short_of_room: dict[int, DraftedSequence] = {}

    def open(
        self,
        sequence_id: int,
        token_ids: Sequence[int],
        *,
        epoch: int,
        draft_until: int,
        stop_token_ids: frozenset[int],
        sampling: SamplingParams = GREEDY,
        priority: int = 0,
    ) -> None:
        """Starts to draft after a prefix; see `SlmEngine.open`."""
        if sequence_id in self._sequences:
            raise InvalidRequest(f"sequence_id: {sequence_id} is open already")
        if not token_ids:
            raise InvalidRequest("token_ids: the prefix is empty")
        self._check_token_ids(token_ids)
        if len(token_ids) >= self.info.context_len:
            raise ContextLengthExceeded(
                f"token_ids: {len(token_ids)} tokens leave no room in a context of {self.info.context_len}"
            )
        self._check_room(len(token_ids))
        sequence = DraftedSequence(sequence_id, list(token_ids), stop_token_ids, sampling)
        sequence.epoch, sequence.draft_until = epoch, draft_until
        self._sequences[sequence_id] = sequence
        self._draft(sequence)

    def rewind(
        self, sequence_id: int, *, length: int, token_ids: Sequence[int], epoch: int, draft_until: int
    ) -> None:
        """Keeps `length` tokens, appends others, drafts on; see `SlmEngine.rewind`."""
        sequence = self._sequences.get(sequence_id)
        if sequence is None:
            raise PrefixNotFound(f"sequence_id: {sequence_id} is not open")
        if length > len(sequence.token_ids):
            held = len(sequence.token_ids)
            raise PrefixConflict(f"length: {length} tokens are to be kept, {held} are held", need_from=held)
        if length < 0 or length + len(token_ids) < 1:
            raise InvalidRequest(f"length: {length} and {len(token_ids)} more leave no token")
        self._check_token_ids(token_ids)
        if length + len(token_ids) > self.info.context_len:
            raise ContextLengthExceeded(
                f"token_ids: {length + len(token_ids)} tokens don't fit into a context of {self.info.context_len}"
            )
        self._abort(sequence)
        sequence.drafts.clear()
        sequence.token_ids[length:] = token_ids
        sequence.epoch, sequence.draft_until = epoch, draft_until
        sequence.at_stop_token = False
        self._draft(sequence)

    def grant(self, sequence_id: int, *, draft_until: int) -> None:
        """Moves the end of the draft window; see `SlmEngine.grant`."""
        sequence = self._sequences.get(sequence_id)
        if sequence is not None and draft_until > sequence.draft_until:
            sequence.draft_until = draft_until
            self._draft(sequence)

    def close(self, sequence_id: int) -> None:
        """Frees a sequence. Unknown sequences are ignored."""
        sequence = self._sequences.pop(sequence_id, None)
        if sequence is not None:
            self._abort(sequence)
            self._short_of_room.pop(sequence_id, None)
            self._use_freed_room()

    async def step(self) -> DraftStep:
        """Waits for drafts and hands out the oldest of each sequence; see `SlmEngine.step`."""
        # Others get their turn on the loop, even if there are always drafts.
        await asyncio.sleep(0)
        while not (self._refusals or any(sequence.drafts for sequence in self._sequences.values())):
            await self._wait_for_news()
        drafted = [sequence for sequence in self._sequences.values() if sequence.drafts]
        drafts = [sequence.drafts.popleft() for sequence in drafted]
        opened, self._opened = self._opened, []
        return DraftStep(
            sequence_ids=[sequence.sequence_id for sequence in drafted],
            positions=[draft.position for draft in drafts],
            epochs=[sequence.epoch for sequence in drafted],
            token_ids=[draft.token_id for draft in drafts],
            hidden_states=_stack([draft.row.hidden_state for draft in drafts], self.info.hidden_size),
            top_logits=_stack([draft.row.top_logits for draft in drafts], TOP_LOGITS),
            opened=opened,
            refusals=self._take_refusals(),
            num_waiting_sequences=max((draft.num_waiting for draft in drafts), default=self._num_waiting),
        )

    @property
    def _num_waiting(self) -> int:
        return super()._num_waiting + len(self._short_of_room)

    def _draft(self, sequence: DraftedSequence) -> None:
        """Starts a request if the window is open and none runs."""
        self._short_of_room.pop(sequence.sequence_id, None)
        window_len = min(sequence.draft_until, self.info.context_len) - len(sequence.token_ids)
        if sequence.request_id is not None or sequence.at_stop_token or window_len <= 0:
            return
        if self._num_free_tokens <= 0:
            self._short_of_room[sequence.sequence_id] = sequence
            self._use_freed_room()
            return
        request_id = self._process.submit(
            sequence.token_ids,
            max_new_tokens=min(window_len, MAX_DRAFTS),
            sampling=sequence.sampling,
            stop_token_ids=sequence.stop_token_ids,
        )
        self._attach(sequence, request_id)

    def _use_freed_room(self) -> None:
        """Lets those draft that are short of room. If nobody drafts, the youngest of them is given up."""
        while self._short_of_room and not (self._requests and self._num_free_tokens <= 0):
            if self._num_free_tokens > 0:
                self._draft(next(iter(self._short_of_room.values())))
                continue
            youngest = next(s for s in reversed(self._sequences.values()) if s.sequence_id in self._short_of_room)
            del self._short_of_room[youngest.sequence_id]
            self._refuse(
                youngest,
                CapacityExceeded(
                    f"kv_cache_tokens: no room for token {len(youngest.token_ids)} of the sequence: "
                    f"all of {self._options.kv_cache_tokens} are in use"
                ),
            )

    def _take(self, sequence: DraftedSequence, chunk: Chunk) -> None:
        if chunk.error:
            self._refuse(sequence, CapacityExceeded(f"SGLang refused the sequence: {chunk.error}"))
            return
        is_first = len(sequence.token_ids) == chunk.num_prompt_tokens
        num_prefilled = chunk.num_prompt_tokens - chunk.num_cached_tokens
        self._counts.num_tokens_processed += len(chunk.token_ids) + (num_prefilled - 1 if is_first else 0)
        if sequence.opened is None:
            sequence.opened = Opened(sequence.sequence_id, chunk.num_cached_tokens, num_prefilled)
            self._opened.append(sequence.opened)
            self._counts.num_tokens_reused += chunk.num_cached_tokens
        num_waiting = self._num_waiting
        for token_id, row in zip(chunk.token_ids, chunk.rows, strict=True):
            if self._num_free_tokens <= 0:
                self._abort(sequence)
                self._draft(sequence)
                return
            sequence.drafts.append(_Draft(len(sequence.token_ids), token_id, row, num_waiting))
            sequence.token_ids.append(token_id)
            sequence.at_stop_token = token_id in sequence.stop_token_ids
        if chunk.is_last:
            self._detach(sequence)
            # The window may have moved meanwhile, or an end-of-sequence token been drafted that doesn't end it here.
            self._draft(sequence)
            self._use_freed_room()


def _stack(rows: Sequence[NDArray[np.float32]], width: int) -> NDArray[np.float32]:
    return np.stack(rows) if rows else np.empty((0, width), dtype=np.float32)
