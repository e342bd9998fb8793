"""The large model's engine on SGLang.

Owns what it was told of each sequence, and the passes that are under way. Each extension is a request over the whole
prefix: SGLang finds the KV of what it has seen. A greedy pass is one request that also returns its choices within the
prefix; one with a temperature is a request a position, since a draw needs all logits of its position.
"""

from __future__ import annotations

import asyncio
from itertools import pairwise

from services.common.errors import (
    CapacityExceeded,
    ContextLengthExceeded,
    InvalidRequest,
    PrefixConflict,
    PrefixNotFound,
)
from services.engines.base import Answer, EngineOptions, Extension, Refusal
from services.engines.sglang.engine import HeldSequence, SglangEngine
from services.engines.sglang.process import Chunk


class ExtendedSequence(HeldSequence):
    """A sequence that the LLM answers for."""

    def __init__(self, extension: Extension, token_ids: list[int]) -> None:
        super().__init__(extension.sequence_id, token_ids)
        self.extension = extension
        self.answers: list[int] = []
        self.num_tokens_reused = 0
        self.num_tokens_prefilled = 0


class SglangLlmEngine(SglangEngine[ExtendedSequence]):
    """`LlmEngine` on SGLang; see `services.engines.base`."""

    def __init__(self, options: EngineOptions) -> None:
        super().__init__(options, has_features=False)
        self._answers: list[Answer] = []

    def extend(self, extension: Extension) -> None:
        """Queues an extension; see `LlmEngine.extend`."""
        self._check(extension)
        before = self._sequences.get(extension.sequence_id)
        if before is None and extension.base_len > 0:
            raise PrefixNotFound(f"sequence_id: {extension.sequence_id} is not held", need_from=0)
        held = [] if before is None else before.token_ids
        if extension.base_len > len(held):
            raise PrefixConflict(
                f"base_length: {extension.base_len} tokens are to be kept, {len(held)} are held", need_from=len(held)
            )
        self._check_room(extension.base_len + len(extension.token_ids) - len(held))
        if before is not None:
            self._abort(before)
        sequence = ExtendedSequence(extension, [*held[: extension.base_len], *extension.token_ids])
        self._sequences[extension.sequence_id] = sequence
        self._ask(sequence)

    def release(self, sequence_id: int) -> None:
        """Frees a sequence. Unknown sequences are ignored."""
        sequence = self._sequences.pop(sequence_id, None)
        if sequence is not None:
            self._abort(sequence)

    async def step(self) -> tuple[list[Answer], list[Refusal]]:
        """Waits for answers and returns them; see `LlmEngine.step`."""
        # Others get their turn on the loop, even if there are always answers.
        await asyncio.sleep(0)
        while not (self._answers or self._refusals):
            await self._wait_for_news()
        answers, self._answers = self._answers, []
        return answers, self._take_refusals()

    def _check(self, extension: Extension) -> None:
        base_len, end = extension.base_len, extension.base_len + len(extension.token_ids)
        positions = extension.query_positions
        if not extension.token_ids:
            raise InvalidRequest("token_ids: there are none")
        if base_len < 0:
            raise InvalidRequest(f"base_length: {base_len} is negative")
        self._check_token_ids(extension.token_ids)
        if not positions:
            raise InvalidRequest("query_positions: there are none")
        if any(later <= earlier for earlier, later in pairwise(positions)):
            raise InvalidRequest("query_positions: they must ascend")
        if positions[0] <= base_len or positions[-1] > end:
            raise InvalidRequest(f"query_positions: they must lie above {base_len} and up to {end}")
        if end > self.info.context_len:
            raise ContextLengthExceeded(
                f"token_ids: {end} tokens don't fit into a context of {self.info.context_len}"
            )

    def _ask(self, sequence: ExtendedSequence) -> None:
        """Asks for the next answers: all that are left if greedy, else one."""
        extension = sequence.extension
        left = extension.query_positions[len(sequence.answers) :]
        is_greedy = extension.sampling.temperature == 0
        request_id = self._process.submit(
            sequence.token_ids[: left[-1] if is_greedy else left[0]],
            max_new_tokens=1,
            sampling=extension.sampling,
            choices_from=left[0] if is_greedy and len(left) > 1 else -1,
        )
        self._attach(sequence, request_id)

    def _take(self, sequence: ExtendedSequence, chunk: Chunk) -> None:
        if chunk.error:
            self._refuse(sequence, CapacityExceeded(f"SGLang refused the sequence: {chunk.error}"))
            return
        self._detach(sequence)
        extension = sequence.extension
        positions = extension.query_positions
        if not sequence.answers:
            sequence.num_tokens_reused = max(0, chunk.num_cached_tokens - extension.base_len)
        sequence.num_tokens_prefilled += chunk.num_prompt_tokens - chunk.num_cached_tokens
        if chunk.choices:
            sequence.answers += [chunk.choices[position - positions[0]] for position in positions[:-1]]
        sequence.answers += chunk.token_ids
        if len(sequence.answers) < len(positions):
            self._ask(sequence)
            return
        self._counts.num_tokens_reused += sequence.num_tokens_reused
        self._counts.num_tokens_processed += sequence.num_tokens_prefilled
        self._answers.append(
            Answer(
                sequence.sequence_id,
                extension.pass_id,
                sequence.answers,
                sequence.num_tokens_reused,
                sequence.num_tokens_prefilled,
            )
        )
