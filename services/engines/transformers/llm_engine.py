"""The large model's engine: extends sequences and answers queried positions.

Owns pending extensions and their answers. A sequence without one is idle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from services.engines.base import Answer, EngineOptions, Extension, Refusal, SamplingParams
from services.engines.checks import check_extension
from services.engines.preemption import IDLE_S, IdleRule
from services.engines.sampling import sample_token
from services.engines.transformers.block_manager import BlockManager
from services.engines.transformers.engine import TransformersEngine
from services.engines.transformers.forward_batch import Row
from services.engines.transformers.model_runner import ModelRunner
from services.engines.transformers.scheduler import Scheduled
from services.engines.transformers.sequence import CachedSequence


@dataclass(slots=True)
class _Pending:
    """An extension, and what is answered of it so far."""

    extension: Extension
    num_prefilled: int = 0
    token_ids: list[int] = field(default_factory=list)

    @property
    def positions_left(self) -> Sequence[int]:
        """The query positions without an answer."""
        return self.extension.query_positions[len(self.token_ids) :]


class ExtendedSequence(CachedSequence):
    """A sequence that the LLM is asked about."""

    def __init__(self, sequence_id: int, blocks: BlockManager) -> None:
        super().__init__(sequence_id, blocks)
        self.pending: _Pending | None = None

    def extend(self, extension: Extension) -> None:
        """Takes in tokens and a question, in place of one that isn't answered yet."""
        self.priority = extension.priority
        self.num_reused = 0
        self.cut(extension.base_len, extension.token_ids)
        self.pending = _Pending(extension)

    def query_offsets(self, num_new: int) -> list[int]:
        """Which of the next `num_new` tokens are followed by a position that is still to be answered."""
        if self.pending is None:
            return []
        first = self.num_computed + 1
        return [position - first for position in self.pending.positions_left if first <= position < first + num_new]

    @property
    def reuse_limit(self) -> int:
        """How many leading tokens may come from the prefix cache.

        The logits before the next queried position are needed, so the token before it is run. So is the last one,
        with which the pass ends.
        """
        positions = self.pending.positions_left if self.pending else ()
        return (positions[0] if positions else len(self.token_ids)) - 1


class TransformersLlmEngine(TransformersEngine[ExtendedSequence]):
    """`LlmEngine` on transformers and torch; see `services.engines.base`.

    Args:
        options: How to set it up; `tp_size` must be 1.
        idle_s: How long a sequence must have had no question before its KV is cache, in seconds.
    """

    def __init__(self, options: EngineOptions, idle_s: float = IDLE_S) -> None:
        super().__init__(options, IdleRule(idle_s))

    def extend(self, extension: Extension) -> None:
        """Queues an extension; see `LlmEngine.extend`."""
        sequence = self._sequences.get(extension.sequence_id)
        check_extension(
            extension,
            num_held=len(sequence.token_ids) if sequence else None,
            vocab_size=self.info.vocab_size,
            context_len=self.info.context_len,
        )
        if sequence is None:
            sequence = ExtendedSequence(extension.sequence_id, self._blocks)
            self._sequences[extension.sequence_id] = sequence
        sequence.extend(extension)
        self._wake.set()

    def release(self, sequence_id: int) -> None:
        """Frees a sequence. Unknown sequences are ignored."""
        self._drop(sequence_id)

    async def step(self) -> tuple[list[Answer], list[Refusal]]:
        """Runs one pass over as many sequences as fit; see `LlmEngine.step`. Refuses nothing."""
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

    def _is_due(self, sequence: ExtendedSequence) -> bool:
        return sequence.pending is not None

    def _reuse_limit(self, sequence: ExtendedSequence) -> int:
        return sequence.reuse_limit

    def _finish(
        self, scheduled: Sequence[Scheduled[ExtendedSequence]], num_outputs: Sequence[int], token_ids: Sequence[int]
    ) -> list[Answer]:
        answers: list[Answer] = []
        begin = 0
        now = self._idle.look()
        for row, num in zip(scheduled, num_outputs, strict=True):
            outputs = token_ids[begin : begin + num]
            begin += num
            sequence = row.sequence
            pending = sequence.pending
            if sequence.version != row.version or pending is None:
                # Extended anew, released or robbed of its KV meanwhile.
                continue
            sequence.advance(row.num_new)
            pending.num_prefilled += row.num_new
            pending.token_ids.extend(outputs)
            if row.reaches_end:
                sequence.pending, sequence.idle_since = None, now
                answers.append(
                    Answer(
                        sequence_id=sequence.sequence_id,
                        pass_id=pending.extension.pass_id,
                        token_ids=pending.token_ids,
                        num_tokens_reused=max(0, sequence.num_reused - pending.extension.base_len),
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
