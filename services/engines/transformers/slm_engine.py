"""The small model's engine: drafts every sequence ahead within its window.

Owns windows, epochs and stop tokens. A sequence is due while its window is open; with a closed window it isn't
prefilled either. When blocks run out, a sequence that has to grow waits for others to be closed; when every open
sequence waits, the one that was opened last is refused.
"""

from __future__ import annotations

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
from services.engines.base import GREEDY, TOP_LOGITS, DraftStep, EngineOptions, Opened, Refusal, SamplingParams
from services.engines.sampling import sample_token
from services.engines.transformers.block_manager import BlockManager
from services.engines.transformers.engine import TransformersEngine
from services.engines.transformers.forward_batch import Row
from services.engines.transformers.model_runner import ModelRunner
from services.engines.transformers.scheduler import Scheduled
from services.engines.transformers.sequence import CachedSequence


class DraftedSequence(CachedSequence):
    """A sequence that the SLM continues."""

    def __init__(
        self, sequence_id: int, blocks: BlockManager, stop_token_ids: frozenset[int], sampling: SamplingParams
    ) -> None:
        super().__init__(sequence_id, blocks)
        self.stop_token_ids = stop_token_ids
        self.sampling = sampling
        self.epoch = 0
        self.draft_until = 0
        self.at_stop_token = False
        self.is_announced = False

    def wants_draft(self, context_len: int) -> bool:
        """Whether it may draft on."""
        return not self.at_stop_token and len(self.token_ids) < min(self.draft_until, context_len)

    def accept(self, token_id: int) -> None:
        """Appends a draft; a stop token pauses it."""
        self.token_ids.append(token_id)
        self.at_stop_token = token_id in self.stop_token_ids


@dataclass(frozen=True, slots=True)
class _Drafts:
    token_ids: list[int]
    hidden_states: NDArray[np.float32]
    top_logits: NDArray[np.float32]


class TransformersSlmEngine(TransformersEngine[DraftedSequence]):
    """`SlmEngine` on transformers and torch; see `services.engines.base`."""

    def __init__(self, options: EngineOptions) -> None:
        super().__init__(options)
        self._refusals: list[Refusal] = []

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
        sequence = DraftedSequence(sequence_id, self._blocks, stop_token_ids, sampling)
        sequence.token_ids.extend(token_ids)
        # The last token is always run, since the first draft comes from its logits.
        num_reused = sequence.reuse(len(token_ids) - 1)
        try:
            sequence.reserve()
        except CapacityExceeded:
            sequence.free()
            raise
        sequence.epoch, sequence.draft_until = epoch, draft_until
        # One that was given up and is opened again before the step that gave it up has told.
        self._refusals = [refusal for refusal in self._refusals if refusal.sequence_id != sequence_id]
        self._counts.num_tokens_reused += num_reused
        self._sequences[sequence_id] = sequence
        self._wake.set()

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
        if token_ids:
            sequence.cut(length, token_ids)
        else:
            # The next draft comes from the logits of the last token, so that one is run again.
            sequence.cut(length - 1, [sequence.token_ids[length - 1]])
        sequence.epoch, sequence.draft_until = epoch, draft_until
        sequence.at_stop_token = False
        self._wake.set()

    def grant(self, sequence_id: int, *, draft_until: int) -> None:
        """Moves the end of the draft window; see `SlmEngine.grant`."""
        sequence = self._sequences.get(sequence_id)
        if sequence is not None and draft_until > sequence.draft_until:
            sequence.draft_until = draft_until
            self._wake.set()

    def close(self, sequence_id: int) -> None:
        """Frees a sequence. Unknown sequences are ignored."""
        self._drop(sequence_id)

    async def step(self) -> DraftStep:
        """Decodes one token for as many sequences as fit; see `SlmEngine.step`."""
        while not ((scheduled := self._schedule()) or self._refusals):
            await self._wait_for_work()
        if not scheduled:
            return self._finish([], _Drafts([], self._no_rows(self.info.hidden_size), self._no_rows(TOP_LOGITS)))
        # Rows are read off now: a rewind during the pass must not reach into them.
        rows = [_row(each) for each in scheduled]
        drawn = [(each.sequence.sampling, len(each.sequence.token_ids)) for each in scheduled if each.reaches_end]
        drafts = await self._run(scheduled, lambda runner: _draft(runner, rows, drawn))
        return self._finish(scheduled, drafts)

    def _schedule(self) -> list[Scheduled[DraftedSequence]]:
        context_len = self.info.context_len
        wanting = [sequence for sequence in self._sequences.values() if sequence.wants_draft(context_len)]
        due = [sequence for sequence in wanting if _has_room(sequence)]
        while wanting and not due and len(wanting) == len(self._sequences):
            youngest = wanting.pop()
            error = CapacityExceeded(
                f"kv_cache_tokens: no room for token {len(youngest.token_ids)} of the sequence: "
                f"all of {self._blocks.num_capacity_tokens} are in use"
            )
            self._refusals.append(Refusal(youngest.sequence_id, error))
            self._drop(youngest.sequence_id)
            due = [sequence for sequence in wanting if _has_room(sequence)]
        scheduled = self._scheduler.select(due)
        self._counts.num_waiting_sequences = len(wanting) - len(scheduled)
        return scheduled

    def _finish(self, scheduled: Sequence[Scheduled[DraftedSequence]], drafts: _Drafts) -> DraftStep:
        kept: list[int] = []
        drafted: list[DraftedSequence] = []
        opened: list[Opened] = []
        output = 0
        for row in scheduled:
            sequence = row.sequence
            if sequence.version != row.version:
                # Rewound or closed meanwhile: what was computed belongs to nobody.
                output += row.reaches_end
                continue
            sequence.advance(row.num_new)
            if not row.reaches_end:
                continue
            sequence.accept(drafts.token_ids[output])
            kept.append(output)
            drafted.append(sequence)
            output += 1
            if not sequence.is_announced:
                sequence.is_announced = True
                opened.append(Opened(sequence.sequence_id, sequence.num_reused, sequence.num_prefilled))
        refusals, self._refusals = self._refusals, []
        is_whole = len(kept) == len(drafts.token_ids)
        return DraftStep(
            sequence_ids=[sequence.sequence_id for sequence in drafted],
            positions=[len(sequence.token_ids) - 1 for sequence in drafted],
            epochs=[sequence.epoch for sequence in drafted],
            token_ids=[drafts.token_ids[index] for index in kept],
            hidden_states=drafts.hidden_states if is_whole else drafts.hidden_states[kept],
            top_logits=drafts.top_logits if is_whole else drafts.top_logits[kept],
            opened=opened,
            refusals=refusals,
            num_waiting_sequences=self._counts.num_waiting_sequences,
        )

    @staticmethod
    def _no_rows(width: int) -> NDArray[np.float32]:
        return np.empty((0, width), dtype=np.float32)


def _has_room(sequence: DraftedSequence) -> bool:
    try:
        sequence.reserve()
    except CapacityExceeded:
        return False
    return True


def _row(scheduled: Scheduled[DraftedSequence]) -> Row:
    return scheduled.sequence.row(scheduled.num_new, [scheduled.num_new - 1] if scheduled.reaches_end else [])


def _draft(runner: ModelRunner, rows: Sequence[Row], drawn: Sequence[tuple[SamplingParams, int]]) -> _Drafts:
    """Runs the pass. Knows no sequence: this is the worker thread's side."""
    hidden, logits = runner.run(rows)
    top_values, top_ids = logits.topk(min(TOP_LOGITS, logits.shape[1]), dim=1)
    token_ids: list[int] = top_ids[:, 0].tolist()
    for index, (sampling, position) in enumerate(drawn):
        if sampling.temperature > 0:
            token_ids[index] = sample_token(logits[index].cpu().numpy(), sampling, position)
    top_logits = top_values.cpu().numpy()
    if top_logits.shape[1] < TOP_LOGITS:
        # The whole vocabulary is there, so the last one is the smallest.
        top_logits = np.pad(top_logits, ((0, 0), (0, TOP_LOGITS - top_logits.shape[1])), mode="edge")
    return _Drafts(token_ids, hidden.cpu().numpy(), top_logits)
