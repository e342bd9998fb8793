"""Many cores on one SLM and one LLM whose KV holds two and a half sequences: all end, with the reference's tokens."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.engines.base import Answer, DraftStep, EngineOptions, Extension
from services.engines.fakes import FakeLlmEngine, FakeSlmEngine
from services.orchestrator.requests.task import GenerationTask
from services.orchestrator.routing.actions import Action, AskLlm, Emit, Finish, GrantSlm, OpenSlm, RewindSlm, Source
from services.orchestrator.routing.core import Ending, RoutingCore
from services.orchestrator.routing.depth import RunAhead
from tests.unit.orchestrator.cluster import EOS, divergence_probability, make_task, reference_decoding

NUM_SCHEDULES = settings().max_examples
MAX_MOVES = 50_000


class _Sequence:
    """A request and its core."""

    def __init__(self, sequence_id: int, task: GenerationTask, depth: int) -> None:
        self.sequence_id = sequence_id
        self.task = task
        self.max_len = len(task.prompt_token_ids) + task.max_new_tokens
        self.core = RoutingCore(
            task.prompt_token_ids,
            decider=task.rule.decider(),
            ending=Ending(frozenset({EOS}), self.max_len),
            run_ahead=RunAhead(depth),
        )
        self.completion: list[tuple[int, bool]] = []


class _Pair:
    """Two engines, and messages between them and the cores that are under way in an order of chance."""

    def __init__(self, sequences: list[_Sequence], draw: random.Random, idle_s: float) -> None:
        longest = max(sequence.max_len for sequence in sequences)
        options: Any = {"kv_cache_tokens": longest * 5 // 2, "max_batch_size": 4}
        self.slm = FakeSlmEngine(EngineOptions(model="slm", **options), idle_s=idle_s)
        self.llm = FakeLlmEngine(EngineOptions(model="llm", **options))
        self._draw = draw
        self._open = {sequence.sequence_id: sequence for sequence in sequences}
        # What each of the three says arrives in order; whose turn it is, chance decides.
        self._drafts: deque[DraftStep] = deque()
        self._scores: deque[tuple[int, int, float, int]] = deque()
        self._answers: deque[Answer] = deque()
        self._slm_step: asyncio.Task[DraftStep] | None = None
        self._llm_step: asyncio.Task[Any] | None = None

    async def run(self) -> None:
        for sequence in list(self._open.values()):
            self._carry_out(sequence, [*sequence.core.llm_ready(), *sequence.core.slm_ready()])
        try:
            for _ in range(MAX_MOVES):
                if not self._open:
                    return
                await self._draw.choice(self._moves())()
            raise AssertionError(f"{len(self._open)} sequences stand still")
        finally:
            for engine in (self.slm, self.llm):
                await engine.stop()
            steps = [step for step in (self._slm_step, self._llm_step) if step]
            await asyncio.gather(*steps, return_exceptions=True)

    def _moves(self) -> list[Callable[[], Any]]:
        queues = ((self._drafts, self._deliver_drafts), (self._scores, self._score), (self._answers, self._answer))
        return [self._run_slm, self._run_llm, *(deliver for queue, deliver in queues if queue)]

    async def _run_slm(self) -> None:
        self._slm_step = self._slm_step or asyncio.create_task(self.slm.step())
        await _give_turn()
        if self._slm_step.done():
            self._drafts.append(self._slm_step.result())
            self._slm_step = None

    async def _run_llm(self) -> None:
        self._llm_step = self._llm_step or asyncio.create_task(self.llm.step())
        await _give_turn()
        if self._llm_step.done():
            answers, refusals = self._llm_step.result()
            assert refusals == []
            self._answers.extend(answers)
            self._llm_step = None

    async def _deliver_drafts(self) -> None:
        step = self._drafts.popleft()
        for sequence_id, position, token_id, epoch in zip(
            step.sequence_ids, step.positions, step.token_ids, step.epochs, strict=True
        ):
            sequence = self._open.get(sequence_id)
            if sequence and sequence.core.drafted(position, token_id, epoch):
                self._scores.append((sequence_id, position, divergence_probability(token_id), epoch))

    async def _score(self) -> None:
        sequence_id, position, probability, epoch = self._scores.popleft()
        if sequence := self._open.get(sequence_id):
            self._carry_out(sequence, sequence.core.scored(position, probability, epoch))

    async def _answer(self) -> None:
        answer = self._answers.popleft()
        if sequence := self._open.get(answer.sequence_id):
            self._carry_out(sequence, sequence.core.answered(answer.pass_id, answer.token_ids))

    def _carry_out(self, sequence: _Sequence, actions: list[Action]) -> None:
        name = sequence.sequence_id
        for action in actions:
            match action:
                case OpenSlm(token_ids, epoch, draft_until):
                    stop: Any = {"stop_token_ids": frozenset({EOS}), "priority": name}
                    self.slm.open(name, token_ids, epoch=epoch, draft_until=draft_until, **stop)
                case RewindSlm(length, token_ids, epoch, draft_until):
                    self.slm.rewind(name, length=length, token_ids=token_ids, epoch=epoch, draft_until=draft_until)
                case GrantSlm(draft_until):
                    self.slm.grant(name, draft_until=draft_until)
                case AskLlm(pass_id, base_len, token_ids, queries):
                    extension = Extension(name, base_len, token_ids, queries, pass_id, priority=name)
                    self.llm.extend(extension)
                case Emit(tokens):
                    sequence.completion += [(token.token_id, token.source is Source.LLM) for token in tokens]
                case Finish():
                    del self._open[name]
                    self.slm.close(name)
                    self.llm.release(name)


async def _give_turn() -> None:
    """Lets a step that has work come to its end."""
    for _ in range(3):
        await asyncio.sleep(0)


@settings(max_examples=NUM_SCHEDULES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    lengths=st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), min_size=3, max_size=9),
    threshold=st.sampled_from([0.0, 0.3, 0.8, 2.0]),
    depth=st.integers(0, 16),
    idle_s=st.sampled_from([0.0, 1e6]),
    seed=st.integers(0, 2**32),
)
def test_sequences_beyond_the_kv_budgets_all_end_with_the_tokens_of_the_reference(
    lengths: list[tuple[int, int]], threshold: float, depth: int, idle_s: float, seed: int
) -> None:
    draw = random.Random(seed)
    sequences = []
    for number, (prompt_len, num_tokens) in enumerate(lengths, start=1):
        prompt = tuple(draw.randrange(1, 128) for _ in range(prompt_len))
        task = make_task(prompt_token_ids=prompt, max_new_tokens=num_tokens, threshold=threshold)
        sequences.append(_Sequence(number, task, depth))
    asyncio.run(_Pair(sequences, draw, idle_s).run())
    for sequence in sequences:
        assert sequence.completion == reference_decoding(sequence.task)
