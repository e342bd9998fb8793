"""The small model's engine: drafts every sequence ahead within its window.

Owns windows, epochs and stop tokens. A sequence is due while its window is open; with a closed window it isn't
prefilled either.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.engines.base import GREEDY, TOP_LOGITS, DraftStep, EngineOptions, Opened, SamplingParams
from services.engines.checks import check_open, check_rewind
from services.engines.preemption import IDLE_S, IdleRule
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
        self,
        sequence_id: int,
        blocks: BlockManager,
        stop_token_ids: frozenset[int],
        sampling: SamplingParams,
        priority: int,
    ) -> None:
        super().__init__(sequence_id, blocks, priority)
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
    """`SlmEngine` on transformers and torch; see `services.engines.base`.

    Args:
        options: How to set it up; `tp_size` must be 1.
        idle_s: How long a window must have been closed before the sequence's KV is cache, in seconds.
    """

    def __init__(self, options: EngineOptions, idle_s: float = IDLE_S) -> None:
        super().__init__(options, IdleRule(idle_s))

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
        sequence = DraftedSequence(sequence_id, self._blocks, stop_token_ids, sampling, priority)
        sequence.token_ids.extend(token_ids)
        sequence.epoch, sequence.draft_until = epoch, draft_until
        self._sequences[sequence_id] = sequence
        self._wake.set()

    def rewind(
        self, sequence_id: int, *, length: int, token_ids: Sequence[int], epoch: int, draft_until: int
    ) -> None:
        """Keeps `length` tokens, appends others, drafts on; see `SlmEngine.rewind`."""
        sequence = self._sequences.get(sequence_id)
        check_rewind(
            sequence_id,
            length,
            token_ids,
            num_held=len(sequence.token_ids) if sequence else None,
            vocab_size=self.info.vocab_size,
            context_len=self.info.context_len,
        )
        assert sequence is not None, "check_rewind lets nothing pass that isn't open"
        if token_ids:
            sequence.cut(length, token_ids)
        else:
            # The next draft comes from the logits of the last token, so that one is run again.
            sequence.cut(length - 1, [sequence.token_ids[length - 1]])
        sequence.epoch, sequence.draft_until = epoch, draft_until
        sequence.at_stop_token = False
        sequence.idle_since = self._idle.look()
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
        while not (scheduled := self._schedule()):
            await self._wait_for_work()
        # Rows are read off now: a rewind during the pass must not reach into them.
        rows = [_row(each) for each in scheduled]
        drawn = [(each.sequence.sampling, len(each.sequence.token_ids)) for each in scheduled if each.reaches_end]
        drafts = await self._run(scheduled, lambda runner: _draft(runner, rows, drawn))
        return self._finish(scheduled, drafts)

    def _is_due(self, sequence: DraftedSequence) -> bool:
        return sequence.wants_draft(self.info.context_len)

    def _reuse_limit(self, sequence: DraftedSequence) -> int:
        # The last token is always run, since the next draft comes from its logits.
        return len(sequence.token_ids) - 1

    def _finish(self, scheduled: Sequence[Scheduled[DraftedSequence]], drafts: _Drafts) -> DraftStep:
        kept: list[int] = []
        drafted: list[DraftedSequence] = []
        opened: list[Opened] = []
        output = 0
        now = self._idle.look()
        for row in scheduled:
            sequence = row.sequence
            if sequence.version != row.version:
                # Rewound, closed or robbed of its KV meanwhile: what was computed belongs to nobody.
                output += row.reaches_end
                continue
            sequence.advance(row.num_new)
            if not row.reaches_end:
                continue
            sequence.accept(drafts.token_ids[output])
            sequence.idle_since = now
            kept.append(output)
            drafted.append(sequence)
            output += 1
            if not sequence.is_announced:
                sequence.is_announced = True
                opened.append(Opened(sequence.sequence_id, sequence.num_reused, sequence.num_prefilled))
        is_whole = len(kept) == len(drafts.token_ids)
        return DraftStep(
            sequence_ids=[sequence.sequence_id for sequence in drafted],
            positions=[len(sequence.token_ids) - 1 for sequence in drafted],
            epochs=[sequence.epoch for sequence in drafted],
            token_ids=[drafts.token_ids[index] for index in kept],
            hidden_states=drafts.hidden_states if is_whole else drafts.hidden_states[kept],
            top_logits=drafts.top_logits if is_whole else drafts.top_logits[kept],
            opened=opened,
            num_waiting_sequences=self._counts.num_waiting_sequences,
            num_sequences_without_room=self._counts.num_sequences_without_room,
        )


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
