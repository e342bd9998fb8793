"""Drive an engine as its service does, and keep what came out of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from services.engines.base import (
    GREEDY,
    Answer,
    DraftStep,
    Extension,
    LlmEngine,
    Opened,
    SamplingParams,
    SlmEngine,
)

STEP_TIMEOUT_S = 60.0
QUIET_S = 0.3
FOREVER = 1_000_000


class SlmDriver:
    """Mirrors every sequence of an SLM engine, and checks each step's rows against the mirror."""

    def __init__(self, engine: SlmEngine) -> None:
        self.engine = engine
        self.token_ids: dict[int, list[int]] = {}
        self.epochs: dict[int, int] = {}
        self.opened: dict[int, Opened] = {}
        self.features: dict[tuple[int, int], tuple[NDArray[np.float32], NDArray[np.float32]]] = {}

    def open(
        self,
        sequence_id: int,
        token_ids: Sequence[int],
        *,
        draft_until: int = FOREVER,
        stop_token_ids: frozenset[int] = frozenset(),
        sampling: SamplingParams = GREEDY,
        priority: int = 0,
    ) -> None:
        self.engine.open(
            sequence_id,
            token_ids,
            epoch=1,
            draft_until=draft_until,
            stop_token_ids=stop_token_ids,
            sampling=sampling,
            priority=priority,
        )
        self.token_ids[sequence_id] = list(token_ids)
        self.epochs[sequence_id] = 1

    def rewind(
        self, sequence_id: int, length: int, token_ids: Sequence[int] = (), *, draft_until: int = FOREVER
    ) -> None:
        epoch = self.epochs[sequence_id] + 1
        self.engine.rewind(sequence_id, length=length, token_ids=token_ids, epoch=epoch, draft_until=draft_until)
        self.token_ids[sequence_id][length:] = token_ids
        self.epochs[sequence_id] = epoch

    def close(self, sequence_id: int) -> None:
        self.engine.close(sequence_id)
        del self.token_ids[sequence_id]
        self.opened.pop(sequence_id, None)

    def close_all(self) -> None:
        for sequence_id in list(self.token_ids):
            self.close(sequence_id)

    async def step(self) -> DraftStep:
        step = await asyncio.wait_for(self.engine.step(), STEP_TIMEOUT_S)
        self.take(step)
        return step

    def take(self, step: DraftStep) -> None:
        num_rows = len(step.sequence_ids)
        assert len(set(step.sequence_ids)) == num_rows
        assert step.hidden_states.shape == (num_rows, self.engine.info.hidden_size)
        assert step.top_logits.shape == (num_rows, 100)
        assert step.hidden_states.dtype == step.top_logits.dtype == np.float32
        for opened in step.opened:
            assert opened.sequence_id not in self.opened
            self.opened[opened.sequence_id] = opened
        for row, sequence_id in enumerate(step.sequence_ids):
            assert step.epochs[row] == self.epochs[sequence_id]
            position = step.positions[row]
            assert position == len(self.token_ids[sequence_id])
            self.token_ids[sequence_id].append(step.token_ids[row])
            self.features[sequence_id, position] = (step.hidden_states[row], step.top_logits[row])
        assert step.refusals == []

    async def until(self, is_done: Callable[[], bool]) -> None:
        while not is_done():
            await self.step()

    async def until_len(self, sequence_id: int, length: int) -> None:
        await self.until(lambda: len(self.token_ids[sequence_id]) >= length)

    async def assert_quiet(self) -> None:
        """Nothing is due: `step` waits."""
        waiting = asyncio.ensure_future(self.engine.step())
        done, _pending = await asyncio.wait([waiting], timeout=QUIET_S)
        waiting.cancel()
        assert not done, "a step ran though nothing was due"
        await asyncio.gather(waiting, return_exceptions=True)


class LlmDriver:
    """Sends extensions to an LLM engine and waits for answers."""

    def __init__(self, engine: LlmEngine) -> None:
        self.engine = engine
        self.answers: dict[tuple[int, int], Answer] = {}
        self.sequence_ids: set[int] = set()

    def extend(
        self,
        sequence_id: int,
        base_len: int,
        token_ids: Sequence[int],
        query_positions: Sequence[int],
        pass_id: int = 0,
        sampling: SamplingParams = GREEDY,
        priority: int = 0,
    ) -> None:
        self.engine.extend(Extension(sequence_id, base_len, token_ids, query_positions, pass_id, sampling, priority))
        self.sequence_ids.add(sequence_id)

    def release(self, sequence_id: int) -> None:
        self.engine.release(sequence_id)
        self.sequence_ids.discard(sequence_id)

    def release_all(self) -> None:
        for sequence_id in list(self.sequence_ids):
            self.release(sequence_id)

    async def step(self) -> list[Answer]:
        answers, refusals = await asyncio.wait_for(self.engine.step(), STEP_TIMEOUT_S)
        assert refusals == []
        for answer in answers:
            assert (answer.sequence_id, answer.pass_id) not in self.answers
            self.answers[answer.sequence_id, answer.pass_id] = answer
        return answers

    async def answer(self, sequence_id: int, pass_id: int = 0) -> Answer:
        while (sequence_id, pass_id) not in self.answers:
            await self.step()
        return self.answers.pop((sequence_id, pass_id))

    async def ask(
        self,
        sequence_id: int,
        base_len: int,
        token_ids: Sequence[int],
        query_positions: Sequence[int],
        pass_id: int = 0,
        sampling: SamplingParams = GREEDY,
        priority: int = 0,
    ) -> Answer:
        self.extend(sequence_id, base_len, token_ids, query_positions, pass_id, sampling, priority)
        return await self.answer(sequence_id, pass_id)
