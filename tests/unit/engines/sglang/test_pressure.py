"""Budgets of two and a half sequences: never more is held, the oldest goes on, all end, and no token changes."""

from __future__ import annotations

import asyncio
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("services.engines.sglang", exc_type=ModuleNotFoundError)
from services.common.errors import ContextLengthExceeded
from services.engines.base import Extension, SamplingParams
from services.engines.fakes import fake_next_token
from services.engines.preemption import IDLE_S
from services.engines.sglang.llm import SglangLlmEngine
from services.engines.sglang.slm import SglangSlmEngine
from tests.unit.engines.sglang.engines import NEVER_STOPS, STEP_TIMEOUT_S, running_llm, running_slm
from tests.unit.engines.sglang.fake_process import FakeSglangProcess

NUM_SEQUENCES = 6
SEQUENCE_LEN = 40
BUDGET = 100

seeds = st.integers(min_value=0, max_value=2**32 - 1)


def assert_follows(token_ids: list[int], prompt_len: int, sampling: SamplingParams) -> None:
    for position in range(prompt_len, len(token_ids)):
        assert token_ids[position] == fake_next_token("fake", token_ids[:position], sampling)


def assert_within_budget(engine: SglangSlmEngine | SglangLlmEngine, process: FakeSglangProcess) -> None:
    assert sum(engine._room._held.values()) == engine.load.num_kv_tokens_used <= BUDGET
    running = [sequence for sequence in engine._sequences.values() if sequence.request_id is not None]
    assert sum(len(sequence.token_ids) for sequence in running) <= BUDGET
    assert sum(request.prompt_len for request in process.requests.values()) <= BUDGET


class SlmCaller:
    """Opens sequences of a random priority, and does at random what a service may do to them until they are done."""

    def __init__(self, engine: SglangSlmEngine, process: FakeSglangProcess, rng: random.Random) -> None:
        self.engine = engine
        self.process = process
        self.rng = rng
        self.open: dict[int, list[int]] = {}
        self.prompt_lens: dict[int, int] = {}
        self.samplings: dict[int, SamplingParams] = {}
        self.epochs: dict[int, int] = {}
        self.priorities = rng.sample(range(1000), NUM_SEQUENCES)
        self.num_rewinds = 0

    def open_one(self, sequence_id: int) -> None:
        prompt = [sequence_id, *(self.rng.randrange(128) for _ in range(self.rng.randint(0, 25)))]
        sampling = SamplingParams(temperature=self.rng.choice([0.0, 1.0]), seed=sequence_id)
        self.engine.open(
            sequence_id, prompt, epoch=1, draft_until=len(prompt) + self.rng.randint(0, 9), sampling=sampling,
            stop_token_ids=NEVER_STOPS, priority=self.priorities[sequence_id],
        )  # fmt: skip
        self.open[sequence_id], self.prompt_lens[sequence_id] = prompt, len(prompt)
        self.samplings[sequence_id], self.epochs[sequence_id] = sampling, 1

    def act(self) -> None:
        """Moves one of the open sequences on."""
        sequence_id = self.rng.choice(list(self.open))
        token_ids = self.open[sequence_id]
        if len(token_ids) >= SEQUENCE_LEN:
            assert_follows(token_ids, self.prompt_lens[sequence_id], self.samplings[sequence_id])
            self.engine.close(sequence_id)
            del self.open[sequence_id]
        elif self.rng.random() < 0.2 and self.num_rewinds < 30:
            self.num_rewinds += 1
            self.rewind(sequence_id, token_ids)
        else:
            until = min(SEQUENCE_LEN, len(token_ids) + self.rng.randint(1, 9))
            self.engine.grant(sequence_id, draft_until=until)

    def rewind(self, sequence_id: int, token_ids: list[int]) -> None:
        length = self.rng.randint(max(1, len(token_ids) - 5), len(token_ids))
        added = [self.rng.randrange(128) for _ in range(self.rng.randint(0, 1))]
        self.epochs[sequence_id] += 1
        self.engine.rewind(
            sequence_id, length=length, token_ids=added, epoch=self.epochs[sequence_id],
            draft_until=length + self.rng.randint(0, 9),
        )  # fmt: skip
        # What stood before the correction was drafted; what comes after it follows from it.
        assert_follows(token_ids, self.prompt_lens[sequence_id], self.samplings[sequence_id])
        token_ids[length:] = added
        self.prompt_lens[sequence_id] = (
            max(self.prompt_lens[sequence_id], len(token_ids))
            if added
            else min(self.prompt_lens[sequence_id], length)
        )

    def assert_oldest_goes_on(self) -> None:
        wanting = [s for s in self.engine._sequences.values() if self.engine._has_work(s)]
        if wanting:
            oldest = min(wanting, key=lambda sequence: (sequence.priority, sequence.sequence_id))
            idle = [s for s in self.engine._sequences.values() if s not in wanting]
            is_oldest_of_all = all(oldest.priority < s.priority for s in idle)
            is_next = type(self.engine._letting_in) is asyncio.Handle
            assert oldest.request_id is not None or is_next or not is_oldest_of_all

    async def step(self) -> None:
        step = await asyncio.wait_for(self.engine.step(), STEP_TIMEOUT_S)
        assert step.refusals == []
        for sequence_id, position, epoch, token_id in zip(
            step.sequence_ids, step.positions, step.epochs, step.token_ids, strict=True
        ):
            assert epoch == self.epochs[sequence_id]
            assert position == len(self.open[sequence_id])
            self.open[sequence_id].append(token_id)


async def drive_slm(seed: int) -> int:
    rng = random.Random(seed)
    now_s = 0.0
    async with running_slm(BUDGET, rng=rng, clock=lambda: now_s) as (engine, process):
        caller = SlmCaller(engine, process, rng)
        for sequence_id in range(NUM_SEQUENCES):
            caller.open_one(sequence_id)
        while caller.open:
            now_s += rng.choice([0.0, 0.3, IDLE_S])
            caller.act()
            assert_within_budget(engine, process)
            # Requests start, what SGLang has said is read, and timers ring.
            await asyncio.sleep(0)
            assert_within_budget(engine, process)
            caller.assert_oldest_goes_on()
            # A step comes back if anything can be drafted.
            if any(sequence.drafts for sequence in engine._sequences.values()) or process.requests:
                await caller.step()
                assert_within_budget(engine, process)
        assert engine.load.num_kv_tokens_used == 0
        return engine.load.num_preemptions


@settings(max_examples=60, deadline=None)
@given(seeds)
def test_slm_under_pressure_drafts_what_it_drafts_without(seed: int) -> None:
    asyncio.run(drive_slm(seed))


def test_slm_pressure_of_these_schedules_takes_room_away() -> None:
    assert sum(asyncio.run(drive_slm(seed)) for seed in range(5)) > 0


async def drive_llm(seed: int) -> int:
    rng = random.Random(seed)
    async with running_llm(BUDGET, rng=rng) as (engine, process):
        texts = {
            sequence_id: [sequence_id, *(rng.randrange(128) for _ in range(rng.randint(5, SEQUENCE_LEN)))]
            for sequence_id in range(NUM_SEQUENCES)
        }
        priorities = rng.sample(range(1000), NUM_SEQUENCES)
        samplings = [SamplingParams(temperature=rng.choice([0.0, 1.0]), seed=index) for index in range(NUM_SEQUENCES)]
        held = dict.fromkeys(texts, 0)
        asked: dict[int, tuple[int, ...]] = {}
        pass_id = 0
        while texts:
            for sequence_id in rng.sample(list(texts), min(len(texts), rng.randint(1, 4))):
                if sequence_id in asked and rng.random() < 0.8:
                    continue
                text = texts[sequence_id]
                base_len = max(0, min(held[sequence_id] - rng.randint(0, 3), len(text) - 1))
                end = min(len(text), base_len + rng.randint(1, 12))
                positions = tuple(sorted(rng.sample(range(base_len + 1, end + 1), rng.randint(1, end - base_len))))
                pass_id += 1
                engine.extend(
                    Extension(
                        sequence_id, base_len, text[base_len:end], positions, pass_id, samplings[sequence_id],
                        priorities[sequence_id],
                    )
                )  # fmt: skip
                held[sequence_id], asked[sequence_id] = end, (pass_id, *positions)
                assert_within_budget(engine, process)
            answers, refusals = await asyncio.wait_for(engine.step(), STEP_TIMEOUT_S)
            assert refusals == []
            for answer in answers:
                answered_pass, *answered = asked.pop(answer.sequence_id)
                text = texts[answer.sequence_id]
                assert answer.pass_id == answered_pass
                sampling = samplings[answer.sequence_id]
                assert answer.token_ids == [fake_next_token("fake", text[:at], sampling) for at in answered]
                if held[answer.sequence_id] == len(text):
                    engine.release(answer.sequence_id)
                    del texts[answer.sequence_id]
            assert_within_budget(engine, process)
        assert engine.load.num_kv_tokens_used == 0
        return engine.load.num_preemptions


@settings(max_examples=60, deadline=None)
@given(seeds)
def test_llm_under_pressure_answers_what_it_answers_without(seed: int) -> None:
    asyncio.run(drive_llm(seed))


def test_llm_pressure_of_these_schedules_takes_room_away() -> None:
    assert sum(asyncio.run(drive_llm(seed)) for seed in range(5)) > 0


async def test_idle_window_becomes_cache_after_a_second_by_itself() -> None:
    now_s = 0.0
    async with running_slm(40, clock=lambda: now_s) as (engine, process):
        engine.open(1, [1] * 20, epoch=1, draft_until=21, stop_token_ids=NEVER_STOPS, priority=1)
        await asyncio.wait_for(engine.step(), STEP_TIMEOUT_S)
        now_s = IDLE_S * 0.9
        engine.open(2, [2] * 30, epoch=1, draft_until=31, stop_token_ids=NEVER_STOPS, priority=2)
        await asyncio.sleep(0)
        assert (engine.load.num_sequences_without_room, len(process.requests)) == (1, 0)
        now_s = IDLE_S
        step = await asyncio.wait_for(engine.step(), STEP_TIMEOUT_S)
        assert step.sequence_ids == [2]
        assert engine.load.num_preemptions == 1
        engine.grant(1, draft_until=22)
        now_s = 2 * IDLE_S
        assert (await asyncio.wait_for(engine.step(), STEP_TIMEOUT_S)).sequence_ids == [1]


async def test_rewind_gives_back_the_room_of_what_it_drops() -> None:
    async with running_slm(40) as (engine, process):
        engine.open(1, [1] * 10, epoch=1, draft_until=20, stop_token_ids=NEVER_STOPS, priority=1)
        while engine.load.num_kv_tokens_used < 20:
            await asyncio.wait_for(engine.step(), STEP_TIMEOUT_S)
        process.is_held = True
        engine.rewind(1, length=5, token_ids=[9], epoch=2, draft_until=6)
        assert engine.load.num_kv_tokens_used == 5
        engine.grant(1, draft_until=8)
        await asyncio.sleep(0)
        assert engine.load.num_kv_tokens_used == 7


async def test_shorter_base_gives_back_the_room_of_what_it_drops() -> None:
    async with running_llm(40) as (engine, _process):
        engine.extend(Extension(1, 0, [1] * 30, [30]))
        await asyncio.wait_for(engine.step(), STEP_TIMEOUT_S)
        engine.extend(Extension(1, 10, [2], [11]))
        assert engine.load.num_kv_tokens_used == 10


async def test_context_is_no_longer_than_the_budget() -> None:
    async with running_slm(40) as (slm, _process):
        assert slm.info.context_len == 40
        with pytest.raises(ContextLengthExceeded, match="token_ids: 40"):
            slm.open(1, [1] * 40, epoch=1, draft_until=50, stop_token_ids=NEVER_STOPS)
    async with running_llm(40) as (llm, _process):
        with pytest.raises(ContextLengthExceeded, match="token_ids: 41"):
            llm.extend(Extension(1, 0, [1] * 41, [41]))
