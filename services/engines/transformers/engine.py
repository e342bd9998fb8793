"""What both engines have in common: start, stop, and the one thread that runs the model.

Owns the model's life and the load counters. All state is changed on the event loop; the worker thread sees snapshots
only, so nothing here is locked.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import Generic, TypeVar

import torch

from services.common.errors import InvalidRequest, ModelNotReady
from services.engines.base import EngineLoad, EngineOptions, ModelInfo
from services.engines.preemption import IdleRule, share_out
from services.engines.transformers.block_manager import BLOCK_LEN, BlockManager
from services.engines.transformers.block_room import BlockRoom
from services.engines.transformers.loading import describe_model, load_model
from services.engines.transformers.model_runner import ModelRunner
from services.engines.transformers.probe import make_runner
from services.engines.transformers.scheduler import Scheduled, Scheduler
from services.engines.transformers.sequence import CachedSequence

INLINE_LIMIT_S = 0.002
"""A step that is expected to take less runs on the event loop: changing threads twice would cost more."""

S = TypeVar("S", bound=CachedSequence)
R = TypeVar("R")


class TransformersEngine(ABC, Generic[S]):
    """Base of both engines.

    Args:
        options: How to set it up; `tp_size` must be 1.
        idle: When the KV of a sequence without work becomes cache.

    Raises:
        ValueError: An option is out of range; the message names it.
    """

    def __init__(self, options: EngineOptions, idle: IdleRule) -> None:
        _check_options(options)
        self._options = options
        self._idle = idle
        self._counts = EngineLoad()
        self._sequences: dict[int, S] = {}
        self._forget()
        self._worker = ThreadPoolExecutor(1, "engine", initializer=self._set_threads)
        self._wake = asyncio.Event()
        self._stopped = False
        self._info: ModelInfo | None = None
        self._runner: ModelRunner | None = None
        self._inline_tokens = 0

    @property
    def info(self) -> ModelInfo:
        """What the model is. Valid after `start`."""
        if self._info is None:
            raise ModelNotReady("the engine has not been started")
        return self._info

    @property
    def load(self) -> EngineLoad:
        """A snapshot of what the engine is doing."""
        return replace(
            self._counts,
            num_active_sequences=len(self._sequences),
            num_kv_tokens_used=self._blocks.num_used_tokens,
            num_kv_tokens_capacity=self._blocks.num_capacity_tokens,
        )

    async def start(self) -> None:
        """Loads the model and runs a warm-up pass.

        Raises:
            ModelLoadError: The model can't be loaded; the message names the file or field.
        """
        self._set_threads()
        loop = asyncio.get_running_loop()
        self._runner, self._info = await loop.run_in_executor(self._worker, self._load)

    async def stop(self) -> None:
        """Frees the model. A `step` that waits raises CancelledError."""
        self._stopped = True
        self._wake.set()
        await asyncio.to_thread(self._worker.shutdown)
        self._runner = None
        for sequence_id in list(self._sequences):
            self._drop(sequence_id)

    async def clear_prefix_cache(self) -> None:
        """Forgets the KV of closed sequences, and whose turn it is.

        Raises:
            InvalidRequest: A sequence is open.
        """
        if self._sequences:
            raise InvalidRequest(f"sequence_id: {next(iter(self._sequences))} is open")
        self._forget()

    def _forget(self) -> None:
        self._blocks = BlockManager(self._options.kv_cache_tokens // BLOCK_LEN)
        self._room: BlockRoom[S] = BlockRoom(
            self._blocks,
            self._counts,
            sequences=self._sequences.values,
            is_cache=lambda sequence: not self._is_due(sequence) and self._idle.is_cache(sequence),
            reuse_limit=self._reuse_limit,
        )
        self._scheduler: Scheduler[S] = Scheduler(self._options.max_batch_size, self._options.prefill_chunk_len)

    @abstractmethod
    def _is_due(self, sequence: S) -> bool:
        """Whether there is work for the sequence."""

    @abstractmethod
    def _reuse_limit(self, sequence: S) -> int:
        """How many leading tokens of the sequence may come from the prefix cache."""

    def _schedule(self) -> list[Scheduled[S]]:
        """Gives room to sequences with work, and chooses the rows of the next step among those that have it."""
        self._idle.look()
        due = [sequence for sequence in self._sequences.values() if self._is_due(sequence)]
        with_room = share_out(due, self._room)
        scheduled = self._scheduler.select(with_room)
        self._counts.num_waiting_sequences = len(with_room) - len(scheduled)
        self._counts.num_sequences_without_room = len(due) - len(with_room)
        return scheduled

    def _load(self) -> tuple[ModelRunner, ModelInfo]:
        model = load_model(self._options)
        info = describe_model(model, self._options)
        context_len = min(info.context_len, self._blocks.num_capacity_tokens)
        return make_runner(model, self._blocks.num_blocks), replace(info, context_len=context_len)

    def _set_threads(self) -> None:
        if self._options.num_threads > 0:
            torch.set_num_threads(self._options.num_threads)

    def _drop(self, sequence_id: int) -> None:
        sequence = self._sequences.pop(sequence_id, None)
        if sequence is not None:
            sequence.free()
            # Others may have waited for its blocks.
            self._wake.set()

    async def _wait_for_work(self) -> None:
        """Waits until a command comes, or until KV becomes cache that somebody waits for."""
        seconds = None
        if self._counts.num_sequences_without_room:
            idle = [each for each in self._sequences.values() if each.holds_kv and not self._is_due(each)]
            seconds = self._idle.seconds_left(idle)
        if not self._stopped:
            self._wake.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), seconds)
        if self._stopped:
            raise asyncio.CancelledError("the engine has been stopped")

    async def _run(self, scheduled: Sequence[Scheduled[S]], work: Callable[[ModelRunner], R]) -> R:
        """Runs `work`, which does the forward pass of a step, where it costs least."""
        runner = self._runner
        if runner is None:
            raise ModelNotReady("the engine has not been started")
        num_tokens = sum(row.num_new for row in scheduled)
        if num_tokens <= self._inline_tokens:
            # Others get their turn on the loop, as they would while a thread runs.
            await asyncio.sleep(0)
            result, busy_s = _timed(work, runner)
        else:
            result, busy_s = await asyncio.get_running_loop().run_in_executor(self._worker, _timed, work, runner)
        if busy_s < INLINE_LIMIT_S:
            self._inline_tokens = max(self._inline_tokens, num_tokens)
        elif num_tokens <= self._inline_tokens:
            self._inline_tokens = num_tokens - 1
        self._counts.num_steps += 1
        self._counts.num_rows += len(scheduled)
        self._counts.num_tokens_processed += num_tokens
        return result


def _timed(work: Callable[[ModelRunner], R], runner: ModelRunner) -> tuple[R, float]:
    # The thread's own time: on a busy machine, wall time tells more about the neighbours.
    began = time.thread_time()
    return work(runner), time.thread_time() - began


def _check_options(options: EngineOptions) -> None:
    if options.tp_size != 1:
        raise ValueError(f"tp_size: the transformers engine runs on one device, got {options.tp_size}")
    if options.kv_cache_tokens < 2 * BLOCK_LEN:
        raise ValueError(f"kv_cache_tokens: at least {2 * BLOCK_LEN}, got {options.kv_cache_tokens}")
    for field in ("max_batch_size", "prefill_chunk_len"):
        if getattr(options, field) < 1:
            raise ValueError(f"{field}: at least 1, got {getattr(options, field)}")
