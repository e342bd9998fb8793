"""Engines without a model, for tests of what is built on engines.

Owns the two fakes and the function that stands for a model: the next token is a hash of the tokens before it. They
keep the protocols of `services.engines.base`, checks and errors included. They hold no KV, but count it: a budget is
as tight as with a model, and a sequence whose KV was taken needs a step without an output to get it back.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from array import array
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from services.common.errors import InvalidRequest
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
from services.engines.checks import check_extension, check_open, check_rewind
from services.engines.preemption import IDLE_S, IdleRule, share_out
from services.engines.room import TokenRoom

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
    sequence_id: int
    priority: int
    token_ids: list[int]
    epoch: int = 0
    draft_until: int = 0
    stop_token_ids: frozenset[int] = frozenset()
    sampling: SamplingParams = GREEDY
    at_stop_token: bool = False
    is_announced: bool = False
    pending: Extension | None = None
    idle_since: float = 0.0
    was_robbed: bool = False


class _FakeEngine:
    def __init__(self, options: EngineOptions, idle: IdleRule) -> None:
        self._options = options
        self._context_len = min(_CONTEXT_LEN, options.kv_cache_tokens)
        self._sequences: dict[int, _Sequence] = {}
        self._idle = idle
        self._room: TokenRoom[_Sequence] = TokenRoom(
            options.kv_cache_tokens,
            needed=lambda sequence: len(sequence.token_ids),
            is_cache=lambda sequence: not self._is_due(sequence) and self._idle.is_cache(sequence),
            preempt=_rob,
        )
        self._wake = asyncio.Event()
        self._stopped = False
        self._counts = EngineLoad(num_kv_tokens_capacity=options.kv_cache_tokens)

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
        return replace(
            self._counts,
            num_active_sequences=len(self._sequences),
            num_kv_tokens_used=self._room.num_used,
            num_preemptions=self._room.num_preemptions,
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

    def _is_due(self, sequence: _Sequence) -> bool:
        raise NotImplementedError

    def _num_held(self, sequence_id: int) -> int | None:
        sequence = self._sequences.get(sequence_id)
        return len(sequence.token_ids) if sequence else None

    def _drop(self, sequence_id: int) -> None:
        sequence = self._sequences.pop(sequence_id, None)
        if sequence is not None:
            self._room.free(sequence)
            # Others may have waited for its room.
            self._wake.set()

    async def _next_rows(self) -> list[_Sequence]:
        """Waits until there is a step to make; returns the sequences of which it has an output."""
        while not (with_room := await self._with_room()):
            await self._wait_for_work()
        rows = with_room[: self._options.max_batch_size]
        self._counts.num_waiting_sequences = len(with_room) - len(rows)
        self._counts.num_steps += 1
        self._counts.num_rows += len(rows)
        self._counts.num_tokens_processed += len(rows)
        kept = [sequence for sequence in rows if not sequence.was_robbed]
        for sequence in rows:
            sequence.was_robbed = False
        return kept

    async def _with_room(self) -> list[_Sequence]:
        if any(map(self._is_due, self._sequences.values())):
            # As with a model, commands arrive while a step is under way.
            await asyncio.sleep(0)
        self._idle.look()
        due = [sequence for sequence in self._sequences.values() if self._is_due(sequence)]
        with_room = share_out(due, self._room)
        self._counts.num_sequences_without_room = len(due) - len(with_room)
        return with_room

    async def _wait_for_work(self) -> None:
        seconds = None
        if self._counts.num_sequences_without_room:
            seconds = self._idle.seconds_left(each for each in self._sequences.values() if not self._is_due(each))
        if not self._stopped:
            self._wake.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), seconds)
        if self._stopped:
            raise asyncio.CancelledError("the engine has been stopped")


def _rob(sequence: _Sequence) -> None:
    sequence.was_robbed = True


class FakeSlmEngine(_FakeEngine):
    """`SlmEngine` whose drafts are `fake_next_token(options.model, prefix)`.

    Args:
        options: The model's name, the batch and the KV budget count.
        idle_s: How long a window must have been closed before the sequence's KV is cache, in seconds.
        clock: What tells the time, in seconds.
    """

    def __init__(
        self, options: EngineOptions, *, idle_s: float = IDLE_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(options, IdleRule(idle_s, clock))

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
            vocab_size=_VOCAB_SIZE,
            context_len=self._context_len,
        )
        self._sequences[sequence_id] = _Sequence(
            sequence_id, priority, list(token_ids), epoch, draft_until, stop_token_ids, sampling
        )
        self._wake.set()

    def rewind(
        self, sequence_id: int, *, length: int, token_ids: Sequence[int], epoch: int, draft_until: int
    ) -> None:
        """Keeps `length` tokens, appends others, drafts on; see `SlmEngine.rewind`."""
        check_rewind(
            sequence_id,
            length,
            token_ids,
            num_held=self._num_held(sequence_id),
            vocab_size=_VOCAB_SIZE,
            context_len=self._context_len,
        )
        sequence = self._sequences[sequence_id]
        sequence.token_ids[length:] = token_ids
        self._room.cut(sequence, length)
        sequence.epoch, sequence.draft_until, sequence.at_stop_token = epoch, draft_until, False
        sequence.idle_since = self._idle.look()
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
        rows = await self._next_rows()
        step = DraftStep(
            [],
            [],
            [],
            [],
            _features(rows, _HIDDEN_SIZE),
            _features(rows, TOP_LOGITS),
            num_waiting_sequences=self._counts.num_waiting_sequences,
            num_sequences_without_room=self._counts.num_sequences_without_room,
        )
        now = self._idle.look()
        for sequence in rows:
            token_id = fake_next_token(self._options.model, sequence.token_ids, sequence.sampling)
            step.sequence_ids.append(sequence.sequence_id)
            step.positions.append(len(sequence.token_ids))
            step.epochs.append(sequence.epoch)
            step.token_ids.append(token_id)
            if not sequence.is_announced:
                sequence.is_announced = True
                step.opened.append(Opened(sequence.sequence_id, 0, len(sequence.token_ids)))
            sequence.token_ids.append(token_id)
            sequence.at_stop_token = token_id in sequence.stop_token_ids
            sequence.idle_since = now
        return step

    def _is_due(self, sequence: _Sequence) -> bool:
        end = min(sequence.draft_until, self._context_len)
        return not sequence.at_stop_token and len(sequence.token_ids) < end


class FakeLlmEngine(_FakeEngine):
    """`LlmEngine` whose answers are `fake_next_token(options.model, prefix)`.

    Args:
        options: The model's name, the batch and the KV budget count.
        idle_s: How long a sequence must have had no question before its KV is cache, in seconds.
        clock: What tells the time, in seconds.
    """

    def __init__(
        self, options: EngineOptions, *, idle_s: float = IDLE_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(options, IdleRule(idle_s, clock))

    def extend(self, extension: Extension) -> None:
        """Queues an extension; see `LlmEngine.extend`."""
        sequence_id = extension.sequence_id
        check_extension(
            extension,
            num_held=self._num_held(sequence_id),
            vocab_size=_VOCAB_SIZE,
            context_len=self._context_len,
        )
        sequence = self._sequences.setdefault(sequence_id, _Sequence(sequence_id, extension.priority, []))
        sequence.token_ids[extension.base_len :] = extension.token_ids
        self._room.cut(sequence, extension.base_len)
        sequence.priority, sequence.pending = extension.priority, extension
        self._wake.set()

    def release(self, sequence_id: int) -> None:
        """Frees a sequence. Unknown sequences are ignored."""
        self._drop(sequence_id)

    async def step(self) -> tuple[list[Answer], list[Refusal]]:
        """Answers as many extensions as fit; see `LlmEngine.step`."""
        return [self._answer(sequence) for sequence in await self._next_rows()], []

    def _answer(self, sequence: _Sequence) -> Answer:
        extension, sequence.pending = sequence.pending, None
        sequence.idle_since = self._idle.look()
        assert extension is not None, "only sequences with an extension are due"
        prefixes = [sequence.token_ids[:position] for position in extension.query_positions]
        token_ids = [fake_next_token(self._options.model, prefix, extension.sampling) for prefix in prefixes]
        return Answer(sequence.sequence_id, extension.pass_id, token_ids, 0, len(extension.token_ids))

    def _is_due(self, sequence: _Sequence) -> bool:
        return sequence.pending is not None


def _features(rows: Sequence[_Sequence], width: int) -> NDArray[np.float32]:
    return np.tile(np.arange(width, 0, -1, dtype=np.float32), (len(rows), 1))
