"""The large model's engine on SGLang.

Owns what it was told of each sequence, and the passes that are under way. Each extension is a request over the whole
prefix: SGLang finds the KV of what it has seen. A greedy pass is one request that also returns its choices within the
prefix; one with a temperature is a request a position, since a draw needs all logits of its position.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from services.engines.base import Answer, EngineOptions, Extension, Refusal
from services.engines.checks import check_extension
from services.engines.sglang.chunks import Chunk
from services.engines.sglang.engine import SglangEngine
from services.engines.sglang.process import SglangProcess
from services.engines.sglang.requests import HeldSequence


class AskedSequence(HeldSequence):
    """A sequence that SGLang is asked about, extension by extension."""

    def __init__(self, sequence_id: int) -> None:
        super().__init__(sequence_id, [], 0)
        self.extension: Extension | None = None
        """The open question; None if there is none."""
        self.answers: list[int] = []
        self.num_tokens_reused = 0
        self.num_tokens_prefilled = 0

    def ask(self, extension: Extension) -> None:
        """Takes in an extension, in place of what was asked before."""
        self.extension = extension
        self.priority = extension.priority
        self.token_ids[extension.base_len :] = extension.token_ids
        self.answers = []
        self.num_tokens_reused = self.num_tokens_prefilled = 0


class SglangLlmEngine(SglangEngine[AskedSequence]):
    """`LlmEngine` on SGLang; see `services.engines.base`.

    Args:
        options: How to set it up.
        process: SGLang's process; None starts a real one.
    """

    def __init__(self, options: EngineOptions, process: SglangProcess | None = None) -> None:
        super().__init__(options, has_features=False, process=process)
        self._answers: dict[int, Answer] = {}

    def extend(self, extension: Extension) -> None:
        """Queues an extension; see `LlmEngine.extend`."""
        sequence = self._sequences.get(extension.sequence_id)
        check_extension(
            extension,
            num_held=None if sequence is None else len(sequence.token_ids),
            vocab_size=self.info.vocab_size,
            context_len=self.info.context_len,
        )
        if sequence is None:
            sequence = self._sequences[extension.sequence_id] = AskedSequence(extension.sequence_id)
        self._answers.pop(extension.sequence_id, None)
        self._refusals.pop(extension.sequence_id, None)
        self._abort(sequence)
        sequence.ask(extension)
        self._room.cut(sequence, extension.base_len)
        self._go_on(sequence)

    def release(self, sequence_id: int) -> None:
        """Frees a sequence. Unknown sequences are ignored."""
        self._answers.pop(sequence_id, None)
        self._forget(sequence_id)

    async def step(self) -> tuple[list[Answer], list[Refusal]]:
        """Waits for answers and returns them; see `LlmEngine.step`."""
        # Others get their turn on the loop, even if there are always answers.
        await asyncio.sleep(0)
        while not (self._answers or self._refusals or self._has_progressed):
            await self._wait_for_news()
        self._has_progressed = False
        answers, self._answers = list(self._answers.values()), {}
        return answers, self._take_refusals()

    def _num_needed(self, sequence: AskedSequence) -> int:
        return len(sequence.token_ids)

    def _is_cache(self, sequence: AskedSequence) -> bool:
        return sequence.extension is None

    def _has_work(self, sequence: AskedSequence) -> bool:
        return sequence.extension is not None

    def _submit(self, sequence: AskedSequence) -> str:
        extension, asked = _question(sequence), _asked_next(sequence)
        return self._process.submit(
            sequence.token_ids[: asked[-1]],
            max_new_tokens=1,
            sampling=extension.sampling,
            choices_from=asked[0] if len(asked) > 1 else -1,
        )

    def _take(self, sequence: AskedSequence, chunk: Chunk) -> None:
        extension, asked = _question(sequence), _asked_next(sequence)
        came, wanted = (len(chunk.token_ids), len(chunk.choices)), (1, asked[-1] - asked[0])
        if came != wanted:
            raise ValueError(f"token_ids, choices: {wanted} of them were asked for, {came} came")
        self._detach(sequence)
        if not sequence.answers:
            sequence.num_tokens_reused = max(0, chunk.num_cached_tokens - extension.base_len)
        sequence.num_tokens_prefilled += chunk.num_prompt_tokens - chunk.num_cached_tokens
        sequence.answers += [chunk.choices[position - asked[0]] for position in asked[:-1]]
        sequence.answers += chunk.token_ids
        if len(sequence.answers) == len(extension.query_positions):
            self._answer(sequence, extension)
        self._go_on(sequence)

    def _answer(self, sequence: AskedSequence, extension: Extension) -> None:
        self._counts.num_tokens_reused += sequence.num_tokens_reused
        self._counts.num_tokens_processed += sequence.num_tokens_prefilled
        sequence.extension = None
        self._answers[sequence.sequence_id] = Answer(
            sequence.sequence_id,
            extension.pass_id,
            sequence.answers,
            sequence.num_tokens_reused,
            sequence.num_tokens_prefilled,
        )


def _question(sequence: AskedSequence) -> Extension:
    if sequence.extension is None:
        raise ValueError(f"sequence {sequence.sequence_id} has no open question")
    return sequence.extension


def _asked_next(sequence: AskedSequence) -> Sequence[int]:
    """The positions that one request answers: all that are left if greedy, else one."""
    extension = _question(sequence)
    left = extension.query_positions[len(sequence.answers) :]
    return left if extension.sampling.temperature == 0 else left[:1]
