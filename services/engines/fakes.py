"""Engines without a model, for tests of what is built on engines.

Owns the two fakes and the function that stands for a model: the next token is a hash of the tokens before it. They
keep the protocols of `services.engines.base`, checks and errors included, but hold no KV.
"""

from __future__ import annotations

import asyncio
import hashlib
from array import array
from collections.abc import Callable, Sequence
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
from services.engines.base import (
    GREEDY,
    TOP_LOGITS,
    Answer,
    DraftStep,
    EngineLoad,
    EngineOptions,
    Extension,
    ModelInfo,
    Opened,
    Refusal,
    SamplingParams,
)

_VOCAB_SIZE = 128
_HIDDEN_SIZE = 8
_CONTEXT_LEN = 256


def fake_next_token(model: str, token_ids: Sequence[int], sampling: SamplingParams = GREEDY) -> int:
    """The token that a fake model writes after a prefix.

    Args:
        model: Its name; other models write other tokens after about half of all prefixes.
        token_ids: The prefix.
        sampling: Any temperature above 0 makes the seed count.
    """
    prefix = array("I", token_ids).tobytes()
    common = hashlib.blake2b(prefix, digest_size=8).digest()
    if common[7] % 2:
        common = hashlib.blake2b(prefix + model.encode(), digest_size=8).digest()
    if sampling.temperature > 0:
        common = hashlib.blake2b(common + str(sampling.seed).encode(), digest_size=8).digest()
    return int.from_bytes(common[:4], "little") % _VOCAB_SIZE


@dataclass(slots=True)
class _Sequence:
    token_ids: list[int]
    epoch: int = 0
    draft_until: int = 0
    stop_token_ids: frozenset[int] = frozenset()
    sampling: SamplingParams = GREEDY
    at_stop_token: bool = False
    is_announced: bool = False
    pending: Extension | None = None


class _FakeEngine:
    def __init__(self, options: EngineOptions) -> None:
        self._options = options
        self._context_len = min(_CONTEXT_LEN, options.kv_cache_tokens)
        self._sequences: dict[int, _Sequence] = {}
        self._wake = asyncio.Event()
        self._stopped = False
        self._num_steps = self._num_rows = 0

    @property
    def info(self) -> ModelInfo:
        """What the model is."""
        return ModelInfo(
            model_id=self._options.model,
            revision=self._options.revision,
            vocab_size=_VOCAB_SIZE,
            hidden_size=_HIDDEN_SIZE,
            tokenizer_sha256=hashlib.sha256(b"fake").hexdigest(),
            num_parameters=1000,
            context_len=self._context_len,
            eos_token_ids=(0,),
            engine="fake",
        )

    @property
    def load(self) -> EngineLoad:
        """A snapshot of what the engine is doing."""
        return EngineLoad(
            num_active_sequences=len(self._sequences),
            num_kv_tokens_used=self._num_tokens(),
            num_kv_tokens_capacity=self._options.kv_cache_tokens,
            num_steps=self._num_steps,
            num_rows=self._num_rows,
            num_tokens_processed=self._num_rows,
        )

    async def start(self) -> None:
        """Does nothing."""

    async def stop(self) -> None:
        """Ends a waiting `step` with CancelledError."""
        self._stopped = True
        self._wake.set()

    async def clear_prefix_cache(self) -> None:
        """Checks that no sequence is open; a fake caches nothing."""
        if self._sequences:
            raise InvalidRequest(f"sequence_id: {next(iter(self._sequences))} is open")

    def _num_tokens(self) -> int:
        return sum(len(sequence.token_ids) for sequence in self._sequences.values())

    def _check_token_ids(self, token_ids: Sequence[int]) -> None:
        for token_id in token_ids:
            if not 0 <= token_id < _VOCAB_SIZE:
                raise InvalidRequest(f"token_ids: {token_id} is outside the vocabulary of {_VOCAB_SIZE}")

    def _check_room(self, num_more: int) -> None:
        num_free = self._options.kv_cache_tokens - self._num_tokens()
        if num_more > num_free:
            raise CapacityExceeded(f"kv_cache_tokens: {num_more} more tokens are needed, {num_free} are free")

    def _drop(self, sequence_id: int) -> None:
        self._sequences.pop(sequence_id, None)

    async def _wait_for(self, is_due: Callable[[_Sequence], bool]) -> tuple[list[int], int]:
        """Waits until a sequence is due; says which ones fit into a step, and how many don't."""
        while not any(map(is_due, self._sequences.values())):
            self._wake.clear()
            if not self._stopped:
                await self._wake.wait()
            if self._stopped:
                raise asyncio.CancelledError("the engine has been stopped")
        # As with a model, commands arrive while a step is under way.
        await asyncio.sleep(0)
        due = [sequence_id for sequence_id, sequence in self._sequences.items() if is_due(sequence)]
        rows = due[: self._options.max_batch_size]
        self._num_steps += 1
        self._num_rows += len(rows)
        return rows, len(due) - len(rows)


class FakeSlmEngine(_FakeEngine):
    """`SlmEngine` whose drafts are `fake_next_token(options.model, prefix)`."""

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
        if len(token_ids) >= self._context_len:
            raise ContextLengthExceeded(f"token_ids: {len(token_ids)} tokens leave no room in {self._context_len}")
        self._check_room(len(token_ids))
        self._sequences[sequence_id] = _Sequence(list(token_ids), epoch, draft_until, stop_token_ids, sampling)
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
        sequence.token_ids[length:] = token_ids
        sequence.epoch, sequence.draft_until, sequence.at_stop_token = epoch, draft_until, False
        self._wake.set()

    def grant(self, sequence_id: int, *, draft_until: int) -> None:
        """Moves the end of the draft window; see `SlmEngine.grant`."""
        sequence = self._sequences.get(sequence_id)
        if sequence is not None:
            sequence.draft_until = max(sequence.draft_until, draft_until)
            self._wake.set()

    def close(self, sequence_id: int) -> None:
        """Frees a sequence. Unknown sequences are ignored."""
        self._drop(sequence_id)

    async def step(self) -> DraftStep:
        """Drafts one token for as many sequences as fit; see `SlmEngine.step`."""
        rows, num_waiting = await self._wait_for(self._may_draft)
        step = DraftStep(
            [], [], [], [], _features(rows, _HIDDEN_SIZE), _features(rows, TOP_LOGITS), [], [], num_waiting
        )
        for row in rows:
            sequence = self._sequences[row]
            token_id = fake_next_token(self._options.model, sequence.token_ids, sequence.sampling)
            step.sequence_ids.append(row)
            step.positions.append(len(sequence.token_ids))
            step.epochs.append(sequence.epoch)
            step.token_ids.append(token_id)
            if not sequence.is_announced:
                sequence.is_announced = True
                step.opened.append(Opened(row, 0, len(sequence.token_ids)))
            sequence.token_ids.append(token_id)
            sequence.at_stop_token = token_id in sequence.stop_token_ids
        return step

    def _may_draft(self, sequence: _Sequence) -> bool:
        end = min(sequence.draft_until, self._context_len)
        return not sequence.at_stop_token and len(sequence.token_ids) < end


class FakeLlmEngine(_FakeEngine):
    """`LlmEngine` whose answers are `fake_next_token(options.model, prefix)`."""

    def extend(self, extension: Extension) -> None:
        """Queues an extension; see `LlmEngine.extend`."""
        base_len, queries = extension.base_len, extension.query_positions
        end = base_len + len(extension.token_ids)
        if base_len < 0:
            raise InvalidRequest(f"base_length: {base_len} is negative")
        if not extension.token_ids:
            raise InvalidRequest("token_ids: there are none")
        if not queries or list(queries) != sorted(set(queries)) or not base_len < queries[0] <= queries[-1] <= end:
            raise InvalidRequest(f"query_positions: {list(queries)} don't ascend from {base_len + 1} to {end}")
        self._check_token_ids(extension.token_ids)
        sequence = self._sequences.get(extension.sequence_id)
        if sequence is None and base_len > 0:
            raise PrefixNotFound(f"sequence_id: {extension.sequence_id} is not held", need_from=0)
        held = len(sequence.token_ids) if sequence else 0
        if base_len > held:
            raise PrefixConflict(f"base_length: {base_len} tokens are expected, {held} are held", need_from=held)
        if end > self._context_len:
            raise ContextLengthExceeded(f"token_ids: {end} tokens don't fit into {self._context_len}")
        self._check_room(end - held)
        sequence = self._sequences.setdefault(extension.sequence_id, _Sequence([]))
        sequence.token_ids[base_len:] = extension.token_ids
        sequence.pending = extension
        self._wake.set()

    def release(self, sequence_id: int) -> None:
        """Frees a sequence. Unknown sequences are ignored."""
        self._drop(sequence_id)

    async def step(self) -> tuple[list[Answer], list[Refusal]]:
        """Answers as many extensions as fit; see `LlmEngine.step`."""
        rows, _num_waiting = await self._wait_for(lambda sequence: sequence.pending is not None)
        answers = [self._answer(row, self._sequences[row]) for row in rows]
        return [answer for answer in answers if answer is not None], []

    def _answer(self, sequence_id: int, sequence: _Sequence) -> Answer | None:
        extension, sequence.pending = sequence.pending, None
        if extension is None:
            return None
        prefixes = [sequence.token_ids[:position] for position in extension.query_positions]
        token_ids = [fake_next_token(self._options.model, prefix, extension.sampling) for prefix in prefixes]
        return Answer(sequence_id, extension.pass_id, token_ids, 0, len(extension.token_ids))


def _features(rows: Sequence[int], width: int) -> NDArray[np.float32]:
    return np.tile(np.arange(width, 0, -1, dtype=np.float32), (len(rows), 1))
