"""The large model's engine: extends sequences and answers queried positions.

Owns pending extensions and their answers. A sequence without one is idle and keeps its KV until it is released.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from services.common.errors import (
    CapacityExceeded,
    ContextLengthExceeded,
    InvalidRequest,
    PrefixConflict,
    PrefixNotFound,
)
from services.engines.base import Answer, Extension, Refusal, SamplingParams
from services.engines.sampling import sample_token
from services.engines.transformers.block_manager import BlockManager
from services.engines.transformers.engine import TransformersEngine
from services.engines.transformers.forward_batch import Row
from services.engines.transformers.model_runner import ModelRunner
from services.engines.transformers.scheduler import Scheduled
from services.engines.transformers.sequence import CachedSequence


@dataclass(slots=True)
class _Pending:
    extension: Extension
    num_reused: int
    num_prefilled: int = 0
    token_ids: list[int] = field(default_factory=list)


class ExtendedSequence(CachedSequence):
    """A sequence that the LLM is asked about."""

    def __init__(self, sequence_id: int, blocks: BlockManager) -> None:
        super().__init__(sequence_id, blocks)
        self.pending: _Pending | None = None

    def query_offsets(self, num_new: int) -> list[int]:
        """Which of the next `num_new` tokens are followed by a queried position."""
        if self.pending is None:
            return []
        first = self.num_computed + 1
        return [
            position - first
            for position in self.pending.extension.query_positions
            if first <= position < first + num_new
        ]


class TransformersLlmEngine(TransformersEngine[ExtendedSequence]):
    """`LlmEngine` on transformers and torch; see `services.engines.base`."""

    def extend(self, extension: Extension) -> None:
        """Queues an extension; see `LlmEngine.extend`."""
        self._check(extension)
        sequence = self._sequences.get(extension.sequence_id)
        if sequence is None:
            sequence = ExtendedSequence(extension.sequence_id, self._blocks)
        sequence.pending = None
        sequence.cut(extension.base_len, extension.token_ids)
        num_reused = 0
        if extension.base_len == 0:
            # The logits before the first queried position are needed, so the token before it is run.
            num_reused = sequence.reuse(extension.query_positions[0] - 1)
        try:
            sequence.reserve()
        except CapacityExceeded:
            self._give_up(sequence, extension.base_len)
            raise
        sequence.pending = _Pending(extension, num_reused)
        self._counts.num_tokens_reused += num_reused
        self._sequences[extension.sequence_id] = sequence
        self._wake.set()

    def release(self, sequence_id: int) -> None:
        """Frees a sequence. Unknown sequences are ignored."""
        self._drop(sequence_id)

    async def step(self) -> tuple[list[Answer], list[Refusal]]:
        """Runs one pass over as many sequences as fit; see `LlmEngine.step`. Refuses nothing after `extend`."""
        while not (scheduled := self._schedule()):
            await self._wait_for_work()
        rows: list[Row] = []
        drawn: list[tuple[SamplingParams, int]] = []
        for row in scheduled:
            sequence = row.sequence
            offsets = sequence.query_offsets(row.num_new)
            rows.append(sequence.row(row.num_new, offsets))
            if sequence.pending is not None:
                sampling = sequence.pending.extension.sampling
                drawn.extend((sampling, sequence.num_computed + offset + 1) for offset in offsets)
        token_ids = await self._run(scheduled, lambda runner: _answer(runner, rows, drawn))
        return self._finish(scheduled, [len(row.output_offsets) for row in rows], token_ids), []

    def _check(self, extension: Extension) -> None:
        sequence = self._sequences.get(extension.sequence_id)
        base_len, end = extension.base_len, extension.base_len + len(extension.token_ids)
        queries = extension.query_positions
        if base_len < 0:
            raise InvalidRequest(f"base_length: {base_len} is negative")
        if not extension.token_ids:
            raise InvalidRequest("token_ids: there are none")
        if not queries:
            raise InvalidRequest("query_positions: there are none")
        if any(later <= earlier for earlier, later in pairwise(queries)):
            raise InvalidRequest("query_positions: they must ascend")
        if queries[0] <= base_len or queries[-1] > end:
            wrong = queries[0] if queries[0] <= base_len else queries[-1]
            raise InvalidRequest(f"query_positions: {wrong} is not in {base_len + 1} to {end}")
        self._check_token_ids(extension.token_ids)
        if sequence is None and base_len > 0:
            raise PrefixNotFound(f"sequence_id: {extension.sequence_id} is not held", need_from=0)
        if sequence is not None and base_len > len(sequence.token_ids):
            held = len(sequence.token_ids)
            raise PrefixConflict(f"base_length: {base_len} tokens are expected, {held} are held", need_from=held)
        if end > self.info.context_len:
            raise ContextLengthExceeded(
                f"token_ids: {end} tokens don't fit into a context of {self.info.context_len}"
            )

    def _give_up(self, sequence: ExtendedSequence, base_len: int) -> None:
        """Leaves the sequence with its first `base_len` tokens, as if it had not been extended."""
        sequence.cut(base_len, [])
        if base_len == 0:
            sequence.free()
            self._sequences.pop(sequence.sequence_id, None)

    def _schedule(self) -> list[Scheduled[ExtendedSequence]]:
        due = [sequence for sequence in self._sequences.values() if sequence.pending is not None]
        scheduled = self._scheduler.select(due)
        self._counts.num_waiting_sequences = len(due) - len(scheduled)
        return scheduled

    def _finish(
        self, scheduled: Sequence[Scheduled[ExtendedSequence]], num_outputs: Sequence[int], token_ids: Sequence[int]
    ) -> list[Answer]:
        answers: list[Answer] = []
        begin = 0
        for row, num in zip(scheduled, num_outputs, strict=True):
            outputs = token_ids[begin : begin + num]
            begin += num
            sequence = row.sequence
            pending = sequence.pending
            if sequence.version != row.version or pending is None:
                # Extended anew or released meanwhile.
                continue
            sequence.advance(row.num_new)
            pending.num_prefilled += row.num_new
            pending.token_ids.extend(outputs)
            if row.reaches_end:
                sequence.pending = None
                answers.append(
                    Answer(
                        sequence_id=sequence.sequence_id,
                        pass_id=pending.extension.pass_id,
                        token_ids=pending.token_ids,
                        num_tokens_reused=pending.num_reused,
                        num_tokens_prefilled=pending.num_prefilled,
                    )
                )
        return answers


def _answer(runner: ModelRunner, rows: Sequence[Row], drawn: Sequence[tuple[SamplingParams, int]]) -> list[int]:
    """Runs the pass. Knows no sequence: this is the worker thread's side."""
    _hidden, logits = runner.run(rows)
    token_ids: list[int] = logits.argmax(dim=1).tolist()
    for index, (sampling, position) in enumerate(drawn):
        if sampling.temperature > 0:
            token_ids[index] = sample_token(logits[index].cpu().numpy(), sampling, position)
    return token_ids
