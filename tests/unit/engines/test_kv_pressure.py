"""The transformers engines under random commands, with KV for two and a half sequences."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.engines.base import EngineOptions, Extension
from services.engines.fakes import fake_next_token
from tests.unit.engines.pool_model import PoolLlmEngine, PoolSlmEngine

SEQUENCE_LEN = 64
KV_TOKENS = 5 * SEQUENCE_LEN // 2
OPTIONS = EngineOptions("m", max_batch_size=3, kv_cache_tokens=KV_TOKENS, prefill_chunk_len=24)
PATIENCE = 30
"""Steps within which the oldest sequence with work must get on: one rebuild in chunks, in turn with others."""


class SlmSchedule:
    """Commands at random to an SLM engine; what each sequence must hold is known all along."""

    def __init__(self, engine: PoolSlmEngine, generator: random.Random) -> None:
        self.engine, self.generator = engine, generator
        self.token_ids: dict[int, list[int]] = {}
        self.end: dict[int, int] = {}
        self.epoch: dict[int, int] = {}
        self.priority: dict[int, int] = {}
        self.shared = [generator.randrange(128) for _ in range(SEQUENCE_LEN)]
        self.num_opened = 0

    def prefix(self, most: int) -> list[int]:
        own = [self.generator.randrange(128) for _ in range(most)]
        return (self.shared[: self.generator.randrange(most)] + own)[: self.generator.randint(1, most)]

    def open(self) -> None:
        self.num_opened += 1
        sequence_id, prefix = self.generator.getrandbits(32), self.prefix(SEQUENCE_LEN - 8)
        self.end[sequence_id] = self.generator.randint(len(prefix), SEQUENCE_LEN)
        self.priority[sequence_id] = self.generator.choice([self.num_opened, -self.num_opened])
        self.token_ids[sequence_id], self.epoch[sequence_id] = prefix, 0
        self.engine.open(
            sequence_id,
            prefix,
            epoch=0,
            draft_until=self.end[sequence_id],
            stop_token_ids=frozenset(),
            priority=self.priority[sequence_id],
        )

    def rewind(self) -> None:
        sequence_id = self.any_id()
        token_ids = self.token_ids[sequence_id]
        length = self.generator.randint(1, len(token_ids))
        new = [self.generator.randrange(128) for _ in range(self.generator.randint(0, min(2, SEQUENCE_LEN - length)))]
        self.token_ids[sequence_id] = token_ids[:length] + new
        self.epoch[sequence_id] += 1
        self.end[sequence_id] = self.generator.randint(length + len(new), SEQUENCE_LEN)
        self.engine.rewind(
            sequence_id,
            length=length,
            token_ids=new,
            epoch=self.epoch[sequence_id],
            draft_until=self.end[sequence_id],
        )

    def grant(self) -> None:
        sequence_id = self.any_id()
        self.end[sequence_id] = self.generator.randint(self.end[sequence_id], SEQUENCE_LEN)
        self.engine.grant(sequence_id, draft_until=self.end[sequence_id])

    def close(self) -> None:
        sequence_id = self.any_id()
        self.engine.close(sequence_id)
        for known in (self.token_ids, self.end, self.epoch, self.priority):
            known.pop(sequence_id)

    def any_id(self) -> int:
        return self.generator.choice(sorted(self.token_ids))

    @property
    def due(self) -> list[int]:
        """Sequences with work, oldest first."""
        due = [each for each, token_ids in self.token_ids.items() if len(token_ids) < self.end[each]]
        return sorted(due, key=lambda each: (self.priority[each], each))

    async def step(self, *, disturbed: bool) -> list[int]:
        """One step; says who drafted. A disturbed one has a command in the middle of it."""
        step = asyncio.ensure_future(self.engine.step())
        for _ in range(self.generator.randint(0, 2)):
            await asyncio.sleep(0)
        if disturbed and not step.done():
            self.command()
            self.open_due()
        drafts = await asyncio.wait_for(step, 10)
        for sequence_id, position, epoch, token_id in zip(
            drafts.sequence_ids, drafts.positions, drafts.epochs, drafts.token_ids, strict=True
        ):
            token_ids = self.token_ids[sequence_id]
            assert (position, epoch) == (len(token_ids), self.epoch[sequence_id])
            assert token_id == fake_next_token("m", token_ids)
            token_ids.append(token_id)
        load = self.engine.load
        assert 0 <= load.num_kv_tokens_used <= KV_TOKENS
        assert load.num_active_sequences == len(self.token_ids)
        return drafts.sequence_ids

    def command(self) -> None:
        commands: list[Callable[[], None]] = [self.open, self.rewind, self.grant, self.close]
        (self.generator.choice(commands) if self.token_ids else self.open)()

    def open_due(self) -> None:
        while not self.due:
            self.open()


async def run_slm(seed: int, idle_s: float) -> int:
    """Returns how often KV was taken."""
    generator = random.Random(seed)
    engine = PoolSlmEngine(OPTIONS, idle_s=idle_s)
    await engine.start()
    schedule = SlmSchedule(engine, generator)
    for _ in range(6):
        schedule.open()
    for _ in range(40):
        for _command in range(generator.randint(0, 2)):
            schedule.command()
        schedule.open_due()
        await schedule.step(disturbed=generator.random() < 0.3)
    # Without further commands, the oldest gets on again and again, until all are done.
    while due := schedule.due:
        for _ in range(PATIENCE):
            if due[0] in await schedule.step(disturbed=False):
                break
        else:
            pytest.fail("the oldest sequence with work doesn't get on")
    num_preemptions = engine.load.num_preemptions
    for sequence_id in schedule.token_ids:
        engine.close(sequence_id)
    assert engine.load.num_kv_tokens_used == 0
    await engine.stop()
    return num_preemptions


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), idle_s=st.sampled_from([0.0, 0.002]))
def test_random_commands_leave_every_draft_as_with_room_for_all(seed: int, idle_s: float) -> None:
    asyncio.run(run_slm(seed, idle_s))


class LlmSchedule:
    """Extensions at random to an LLM engine; what each sequence must hold is known all along."""

    def __init__(self, engine: PoolLlmEngine, generator: random.Random) -> None:
        self.engine, self.generator = engine, generator
        self.token_ids: dict[int, list[int]] = {}
        self.asked: dict[int, Extension] = {}
        self.shared = [generator.randrange(128) for _ in range(SEQUENCE_LEN)]
        self.num_passes = 0

    def extend(self) -> None:
        self.num_passes += 1
        sequence_id = self.generator.randrange(8)
        held = self.token_ids.get(sequence_id, [])
        base_len = self.generator.choice([0, len(held), self.generator.randint(0, len(held))])
        if base_len == SEQUENCE_LEN:
            base_len = 0
        end = self.generator.randint(base_len + 1, SEQUENCE_LEN)
        own = [self.generator.randrange(128) for _ in range(SEQUENCE_LEN)]
        new = self.generator.choice([self.shared, own])[base_len:end]
        positions = self.generator.sample(range(base_len + 1, end + 1), min(3, end - base_len))
        extension = Extension(
            sequence_id, base_len, new, sorted(positions), self.num_passes, priority=sequence_id * 5 % 8
        )
        self.engine.extend(extension)
        self.token_ids[sequence_id] = held[:base_len] + new
        self.asked[sequence_id] = extension

    def release(self) -> None:
        sequence_id = self.generator.randrange(8)
        self.engine.release(sequence_id)
        self.token_ids.pop(sequence_id, None)
        self.asked.pop(sequence_id, None)

    def extend_due(self) -> None:
        while not self.asked:
            self.extend()

    async def step(self, *, disturbed: bool) -> list[int]:
        """One step; says who was answered. A disturbed one has a command in the middle of it."""
        step = asyncio.ensure_future(self.engine.step())
        for _ in range(self.generator.randint(0, 2)):
            await asyncio.sleep(0)
        if disturbed and not step.done():
            self.generator.choice([self.extend, self.release])()
            self.extend_due()
        answers, refusals = await asyncio.wait_for(step, 10)
        assert refusals == []
        for answer in answers:
            extension = self.asked.pop(answer.sequence_id)
            token_ids = self.token_ids[answer.sequence_id]
            assert answer.pass_id == extension.pass_id
            assert answer.token_ids == [
                fake_next_token("m", token_ids[:position]) for position in extension.query_positions
            ]
        load = self.engine.load
        assert 0 <= load.num_kv_tokens_used <= KV_TOKENS
        assert load.num_active_sequences == len(self.token_ids)
        return [answer.sequence_id for answer in answers]


async def run_llm(seed: int, idle_s: float) -> int:
    """Returns how often KV was taken."""
    generator = random.Random(seed)
    engine = PoolLlmEngine(OPTIONS, idle_s=idle_s)
    await engine.start()
    schedule = LlmSchedule(engine, generator)
    for _ in range(60):
        for _command in range(generator.randint(0, 2)):
            generator.choice([schedule.extend, schedule.extend, schedule.extend, schedule.release])()
        schedule.extend_due()
        await schedule.step(disturbed=generator.random() < 0.3)
    while schedule.asked:
        oldest = min(schedule.asked.values(), key=lambda asked: (asked.priority, asked.sequence_id))
        for _ in range(PATIENCE):
            if oldest.sequence_id in await schedule.step(disturbed=False):
                break
        else:
            pytest.fail("the oldest sequence with a question isn't answered")
    num_preemptions = engine.load.num_preemptions
    for sequence_id in schedule.token_ids:
        engine.release(sequence_id)
    assert engine.load.num_kv_tokens_used == 0
    await engine.stop()
    return num_preemptions


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), idle_s=st.sampled_from([0.0, 0.002]))
def test_random_extensions_are_answered_as_with_room_for_all(seed: int, idle_s: float) -> None:
    asyncio.run(run_llm(seed, idle_s))


def test_schedules_like_these_take_kv() -> None:
    assert asyncio.run(run_slm(1, 0.0)) > 0
    assert asyncio.run(run_llm(1, 0.0)) > 0
