"""The small model's engine on SGLang.

Owns windows, epochs and stop tokens. Drafting ahead is one streaming request, as long as the window that was granted
when it started. A grant beyond it starts another with the longer prefix, whose KV SGLang still has; a rewind aborts
and starts one.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.engines.base import GREEDY, TOP_LOGITS, DraftStep, EngineOptions, Opened, SamplingParams
from services.engines.checks import check_open, check_rewind
from services.engines.preemption import IdleRule
from services.engines.sglang.chunks import Chunk
from services.engines.sglang.engine import SglangEngine
from services.engines.sglang.process import SglangProcess
from services.engines.sglang.requests import HeldSequence
from services.engines.sglang.rows import Row
from services.engines.sglang.server_args import MAX_DRAFTS


@dataclass(frozen=True, slots=True)
class _Draft:
    position: int
    token_id: int
    row: Row
    num_waiting: int


class StreamedSequence(HeldSequence):
    """A sequence whose drafts come out of one streaming request after the other."""

    def __init__(
        self,
        sequence_id: int,
        token_ids: list[int],
        priority: int,
        stop_token_ids: frozenset[int],
        sampling: SamplingParams,
    ) -> None:
        super().__init__(sequence_id, token_ids, priority)
        self.stop_token_ids = stop_token_ids
        self.sampling = sampling
        self.epoch = 0
        self.draft_until = 0
        self.at_stop_token = False
        self.idle_since = 0.0
        """When its window was closed; counts while it is closed."""
        self.opened: Opened | None = None
        self.is_announced = False
        # Drafted and not yet handed out, oldest first.
        self.drafts: deque[_Draft] = deque()

    def announce(self) -> Opened | None:
        """How the prefix was processed, if that has not been told."""
        opened = None if self.is_announced else self.opened
        self.is_announced = True
        return opened


class SglangSlmEngine(SglangEngine[StreamedSequence]):
    """`SlmEngine` on SGLang; see `services.engines.base`.

    Args:
        options: How to set it up.
        process: SGLang's process; None starts a real one.
        clock: The time, in seconds; tells how long a window has been closed.
    """

    def __init__(
        self,
        options: EngineOptions,
        process: SglangProcess | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(options, has_features=True, process=process)
        self._idle = IdleRule(clock=clock)

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
        check_open(
            sequence_id,
            token_ids,
            is_open=sequence_id in self._sequences,
            vocab_size=self.info.vocab_size,
            context_len=self.info.context_len,
        )
        sequence = StreamedSequence(sequence_id, list(token_ids), priority, stop_token_ids, sampling)
        sequence.epoch, sequence.draft_until = epoch, draft_until
        self._refusals.pop(sequence_id, None)
        self._sequences[sequence_id] = sequence
        self._settle(sequence)

    def rewind(
        self, sequence_id: int, *, length: int, token_ids: Sequence[int], epoch: int, draft_until: int
    ) -> None:
        """Keeps `length` tokens, appends others, drafts on; see `SlmEngine.rewind`."""
        known = self._sequences.get(sequence_id)
        check_rewind(
            sequence_id,
            length,
            token_ids,
            num_held=None if known is None else len(known.token_ids),
            vocab_size=self.info.vocab_size,
            context_len=self.info.context_len,
        )
        sequence = self._sequences[sequence_id]
        self._abort(sequence)
        sequence.drafts.clear()
        sequence.token_ids[length:] = token_ids
        sequence.epoch, sequence.draft_until = epoch, draft_until
        sequence.at_stop_token = False
        self._room.cut(sequence, length)
        self._settle(sequence)

    def grant(self, sequence_id: int, *, draft_until: int) -> None:
        """Moves the end of the draft window; see `SlmEngine.grant`."""
        sequence = self._sequences.get(sequence_id)
        if sequence is not None and draft_until > sequence.draft_until:
            sequence.draft_until = draft_until
            self._settle(sequence)

    def close(self, sequence_id: int) -> None:
        """Frees a sequence. Unknown sequences are ignored."""
        self._forget(sequence_id)

    async def step(self) -> DraftStep:
        """Waits for drafts and hands out the oldest of each sequence; see `SlmEngine.step`."""
        # Others get their turn on the loop, even if there are always drafts.
        await asyncio.sleep(0)
        while not (drafted := self._with_drafts()) and not (self._refusals or self._has_progressed):
            await self._wait_for_news()
        self._has_progressed = False
        drafts = [sequence.drafts.popleft() for sequence in drafted]
        return DraftStep(
            sequence_ids=[sequence.sequence_id for sequence in drafted],
            positions=[draft.position for draft in drafts],
            epochs=[sequence.epoch for sequence in drafted],
            token_ids=[draft.token_id for draft in drafts],
            hidden_states=_stack([draft.row.hidden_state for draft in drafts], self.info.hidden_size),
            top_logits=_stack([draft.row.top_logits for draft in drafts], TOP_LOGITS),
            opened=[opened for sequence in drafted if (opened := sequence.announce()) is not None],
            refusals=self._take_refusals(),
            num_waiting_sequences=max((draft.num_waiting for draft in drafts), default=self._num_waiting),
            num_sequences_without_room=len(self._without_room),
        )

    def _with_drafts(self) -> list[StreamedSequence]:
        return [sequence for sequence in self._sequences.values() if sequence.drafts]

    def _settle(self, sequence: StreamedSequence) -> None:
        """Goes on with a sequence whose window or tokens have changed."""
        sequence.idle_since = self._idle.look()
        self._go_on(sequence)

    def _num_needed(self, sequence: StreamedSequence) -> int:
        # Its tokens and the next one.
        return len(sequence.token_ids) + 1

    def _is_cache(self, sequence: StreamedSequence) -> bool:
        return not self._has_work(sequence) and self._idle.is_cache(sequence)

    def _let_in(self) -> None:
        self._idle.look()
        super()._let_in()

    def _next_cache_s(self) -> float | None:
        idle = (sequence for sequence in self._sequences.values() if not self._has_work(sequence))
        return self._idle.seconds_left(sequence for sequence in idle if self._room.holds_any(sequence))

    def _has_work(self, sequence: StreamedSequence) -> bool:
        end = min(sequence.draft_until, self.info.context_len)
        return not sequence.at_stop_token and len(sequence.token_ids) < end

    def _submit(self, sequence: StreamedSequence) -> str:
        end = min(sequence.draft_until, self.info.context_len)
        return self._process.submit(
            sequence.token_ids,
            max_new_tokens=min(end - len(sequence.token_ids), MAX_DRAFTS),
            sampling=sequence.sampling,
            stop_token_ids=sequence.stop_token_ids,
        )

    def _take(self, sequence: StreamedSequence, chunk: Chunk) -> None:
        is_first = len(sequence.token_ids) == chunk.num_prompt_tokens
        if is_first and chunk.is_last and not chunk.token_ids:
            raise ValueError("token_ids: the request ended without any")
        num_prefilled = chunk.num_prompt_tokens - chunk.num_cached_tokens
        self._counts.num_tokens_processed += len(chunk.token_ids) + (num_prefilled - 1 if is_first else 0)
        if sequence.opened is None:
            sequence.opened = Opened(sequence.sequence_id, chunk.num_cached_tokens, num_prefilled)
            self._counts.num_tokens_reused += chunk.num_cached_tokens
        num_waiting = self._num_waiting
        self._idle.look()
        for token_id, row in zip(chunk.token_ids, chunk.rows, strict=True):
            _check_row(row, self.info.hidden_size)
            sequence.drafts.append(_Draft(len(sequence.token_ids), token_id, row, num_waiting))
            sequence.token_ids.append(token_id)
            sequence.at_stop_token = token_id in sequence.stop_token_ids
            if self._has_work(sequence) and not self._room.take(sequence):
                # What SGLang has drafted beyond its room is drafted again when there is some.
                self._abort(sequence)
                break
        if chunk.is_last:
            self._detach(sequence)
        if sequence.request_id is None:
            # The window may have moved meanwhile, or an end-of-sequence token been drafted that doesn't end it here.
            self._settle(sequence)


def _check_row(row: Row, hidden_size: int) -> None:
    if (len(row.top_logits), len(row.hidden_state)) != (TOP_LOGITS, hidden_size):
        raise ValueError(f"rows: {len(row.top_logits)} logits and {len(row.hidden_state)} hidden values")


def _stack(rows: Sequence[NDArray[np.float32]], width: int) -> NDArray[np.float32]:
    return np.stack(rows) if rows else np.empty((0, width), dtype=np.float32)
