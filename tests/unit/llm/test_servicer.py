from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import grpc
import pytest
from trivium.v1 import common_pb2, llm_pb2, llm_pb2_grpc

from services.common.errors import CapacityExceeded
from services.common.serving.lifecycle import Lifecycle
from services.engines.base import Answer, EngineLoad, EngineOptions, Refusal
from services.engines.fakes import FakeLlmEngine, fake_next_token
from services.llm.servicer import SERVICE_NAME, LlmServicer
from tests.scraping import scraped
from tests.serving import error_of, read, serving, until

OPTIONS = EngineOptions(model="llm", kv_cache_tokens=1000)
CODES = {code.value[0]: code for code in grpc.StatusCode}


class _Llm:
    def __init__(self, channel: grpc.aio.Channel, lifecycle: Lifecycle, servicer: LlmServicer) -> None:
        self.stub = llm_pb2_grpc.LlmServiceStub(channel)
        self.lifecycle = lifecycle
        self.servicer = servicer

    async def num_active(self) -> int:
        info = await self.stub.GetServerInfo(llm_pb2.LlmServiceGetServerInfoRequest())
        return info.load.num_active_sequences


@asynccontextmanager
async def _llm(engine: FakeLlmEngine | None = None, **options: Any) -> AsyncIterator[_Llm]:
    lifecycle = Lifecycle(SERVICE_NAME, "r1")
    servicer = LlmServicer(lambda: engine or FakeLlmEngine(OPTIONS), lifecycle, **options)
    async with serving(servicer, lifecycle) as channel:
        yield _Llm(channel, lifecycle, servicer)


def _extend(
    sequence_id: int, base_length: int, token_ids: list[int], queries: list[int], **fields: Any
) -> llm_pb2.ExtendCommand:
    fields = {"base_length": base_length, "token_ids": token_ids, "query_positions": queries, **fields}
    return llm_pb2.ExtendCommand(sequence_id=sequence_id, extend=llm_pb2.ExtendSequence(**fields))


def _release(sequence_id: int) -> llm_pb2.ExtendCommand:
    return llm_pb2.ExtendCommand(sequence_id=sequence_id, release=llm_pb2.ReleaseSequence())


def _request(*commands: llm_pb2.ExtendCommand) -> llm_pb2.ExtendRequest:
    return llm_pb2.ExtendRequest(commands=commands)


async def _answer(call: Any) -> llm_pb2.ExtendAnswer:
    response: llm_pb2.ExtendResponse = await read(call)
    assert not response.errors
    [answer] = response.answers
    return answer


async def _error(call: Any) -> common_pb2.SequenceError:
    response: llm_pb2.ExtendResponse = await read(call)
    [error] = response.errors
    return error


def _expected(token_ids: list[int], queries: list[int]) -> list[int]:
    return [fake_next_token("llm", token_ids[:query]) for query in queries]


async def test_extend_answers_every_queried_position_and_later_deltas() -> None:
    async with _llm() as llm:
        call = llm.stub.Extend()
        await call.write(_request(_extend(7, 0, [1, 2, 3], [2, 3], pass_id=5)))
        first = await _answer(call)
        assert (first.sequence_id, first.pass_id, first.num_tokens_prefilled) == (7, 5, 3)
        assert list(first.token_ids) == _expected([1, 2, 3], [2, 3])
        await call.write(_request(_extend(7, 2, [9], [3], pass_id=6)))
        second = await _answer(call)
        assert (second.pass_id, list(second.token_ids)) == (6, _expected([1, 2, 9], [3]))


async def test_two_streams_share_steps_and_get_their_own_answers_only() -> None:
    engine = FakeLlmEngine(OPTIONS)
    async with _llm(engine) as llm:
        calls = [llm.stub.Extend(), llm.stub.Extend()]

        async def ask(call: Any, token_id: int) -> None:
            for length in range(30):
                await call.write(_request(_extend(token_id, length, [token_id], [length + 1], pass_id=length)))
                answer = await _answer(call)
                assert (answer.sequence_id, answer.pass_id) == (token_id, length)
                assert list(answer.token_ids) == [fake_next_token("llm", [token_id] * (length + 1))]

        await asyncio.gather(*(ask(call, token_id) for token_id, call in enumerate(calls, 1)))
        assert engine.load.num_rows == 60


async def test_answers_tell_who_waits_and_what_other_streams_hold() -> None:
    class Busy(FakeLlmEngine):
        @property
        def load(self) -> EngineLoad:
            return replace(super().load, num_waiting_sequences=5)

    async with _llm(Busy(OPTIONS)) as llm:
        other, call = llm.stub.Extend(), llm.stub.Extend()
        for sequence_id in (1, 2):
            await other.write(_request(_extend(sequence_id, 0, [1], [1])))
            await _answer(other)
        await call.write(_request(_extend(3, 0, [1], [1])))
        response = await read(call)
        assert (response.num_other_sequences, response.num_waiting_sequences) == (2, 5)


async def test_commands_of_one_message_are_answered_in_one_step() -> None:
    engine = FakeLlmEngine(OPTIONS)
    async with _llm(engine) as llm:
        call = llm.stub.Extend()
        await call.write(_request(_extend(1, 0, [1], [1]), _extend(2, 0, [2], [1])))
        response = await read(call)
        assert [answer.sequence_id for answer in response.answers] == [1, 2]
        assert (engine.load.num_steps, engine.load.num_rows) == (1, 2)


@pytest.mark.parametrize(
    ("command", "code", "need_from", "word"),
    [
        (_extend(9, 4, [1], [5]), grpc.StatusCode.NOT_FOUND, 0, "sequence_id"),
        (_extend(1, 5, [1], [6]), grpc.StatusCode.ABORTED, 3, "base_length: 5"),
        (_extend(1, 3, [], [4]), grpc.StatusCode.INVALID_ARGUMENT, None, "token_ids"),
        (_extend(1, 3, [128], [4]), grpc.StatusCode.INVALID_ARGUMENT, None, "vocabulary"),
        (_extend(1, 3, [1], []), grpc.StatusCode.INVALID_ARGUMENT, None, "query_positions"),
        (_extend(1, 3, [1], [3]), grpc.StatusCode.INVALID_ARGUMENT, None, "query_positions"),
        (_extend(1, 3, [1, 1], [5, 4]), grpc.StatusCode.INVALID_ARGUMENT, None, "query_positions"),
        (_extend(1, 3, [1] * 254, [4]), grpc.StatusCode.OUT_OF_RANGE, None, "token_ids"),
        (
            _extend(1, 3, [1], [4], sampling=common_pb2.SamplingParams(temperature=-1)),
            grpc.StatusCode.INVALID_ARGUMENT,
            None,
            "sampling.temperature",
        ),
    ],
)
async def test_extend_refused_tells_why_and_keeps_what_is_held(
    command: llm_pb2.ExtendCommand, code: grpc.StatusCode, need_from: int | None, word: str
) -> None:
    async with _llm() as llm:
        call = llm.stub.Extend()
        await call.write(_request(_extend(1, 0, [1, 2, 3], [3])))
        await _answer(call)
        command.extend.pass_id = 7
        await call.write(_request(command))
        error = await _error(call)
        assert (error.sequence_id, CODES[error.code]) == (command.sequence_id, code)
        assert (error.need_from if error.HasField("need_from") else None) == need_from
        assert error.pass_id == command.extend.pass_id == 7
        assert word in error.message
        await call.write(_request(_extend(1, 3, [4], [4])))
        assert list((await _answer(call)).token_ids) == _expected([1, 2, 3, 4], [4])


async def test_extensions_beyond_the_kv_budget_are_answered_in_their_turn() -> None:
    engine = FakeLlmEngine(EngineOptions(model="llm", kv_cache_tokens=10), idle_s=0)
    async with _llm(engine) as llm:
        call = llm.stub.Extend()
        extensions = [_extend(number, 0, [number] * 8, [8], priority=9 - number) for number in (1, 2, 3)]
        await call.write(_request(*extensions))
        answered = [(await _answer(call)) for _ in extensions]
        assert [answer.sequence_id for answer in answered] == [3, 2, 1]
        assert [list(answer.token_ids) for answer in answered] == [_expected([n] * 8, [8]) for n in (3, 2, 1)]
        await call.write(_request(_extend(3, 8, [5], [9], priority=6)))
        assert list((await _answer(call)).token_ids) == _expected([3] * 8 + [5], [9])
        assert engine.load.num_preemptions == 3


class _Prefilling(FakeLlmEngine):
    """Completes passes that bring no answer, as many as it is permitted."""

    def __init__(self) -> None:
        super().__init__(OPTIONS)
        self.permits = asyncio.Semaphore(0)

    @property
    def load(self) -> EngineLoad:
        return replace(super().load, num_waiting_sequences=2, num_sequences_without_room=3)

    async def step(self) -> tuple[list[Answer], list[Refusal]]:
        await self.permits.acquire()
        return [], []


async def _heartbeats_until_error(call: Any) -> list[llm_pb2.ExtendResponse]:
    """Makes the service refuse something; returns what it sent before it says so."""
    await call.write(_request(_extend(99, 5, [1], [6])))
    responses: list[llm_pb2.ExtendResponse] = []
    while not (response := await read(call)).errors:
        responses.append(response)
    return responses


@pytest.mark.parametrize("heartbeat_s", [0, 3600])
async def test_stream_with_a_question_hears_of_completed_passes_and_others_do_not(heartbeat_s: float) -> None:
    engine = _Prefilling()
    async with _llm(engine, heartbeat_s=heartbeat_s) as llm:
        waiting, idle = llm.stub.Extend(), llm.stub.Extend()
        await waiting.write(_request(_extend(1, 0, [1], [1])))
        await idle.write(_request(_extend(2, 0, [1], [1]), _release(2)))
        for stream in (waiting, idle):
            assert await _heartbeats_until_error(stream) == []
        engine.permits.release()
        await until(lambda: engine.permits.locked())
        expected = llm_pb2.ExtendResponse(num_waiting_sequences=2, num_sequences_without_room=3)
        assert await _heartbeats_until_error(waiting) == ([] if heartbeat_s else [expected])
        assert await _heartbeats_until_error(idle) == []


async def test_metrics_count_questions_until_they_are_answered_refused_or_released() -> None:
    engine = _SlowEngine()
    async with _llm(engine) as llm:
        with scraped(llm.servicer) as values:
            call = llm.stub.Extend()
            await call.write(_request(_extend(1, 0, [1] * 8, [6, 8])))
            await _answer(call)
            assert (values()["trivium_llm_active_sequences"], values()["trivium_llm_open_sequences"]) == (0, 1)
            assert values()["trivium_llm_positions_answered_total"] == 2
            assert values()["trivium_llm_question_seconds_count"] == 1
            await call.write(_request(_extend(2, 5, [1], [6])))
            await _error(call)
            assert values()["trivium_llm_waiting_query_positions"] == 0
            engine.may_answer.clear()
            await call.write(_request(_extend(1, 8, [2], [9])))
            await until(lambda: values()["trivium_llm_active_sequences"] == 1)
            assert values()["trivium_llm_waiting_query_positions"] == 1
            await call.write(_request(_release(1)))
            await until(lambda: values()["trivium_llm_active_sequences"] == 0)
            assert values()["trivium_llm_waiting_query_positions"] == 0


class _SlowEngine(FakeLlmEngine):
    """Keeps its answers to itself while `may_answer` is clear."""

    def __init__(self) -> None:
        super().__init__(EngineOptions(model="llm", kv_cache_tokens=10))
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def step(self) -> tuple[list[Answer], list[Refusal]]:
        step = await super().step()
        await self.may_answer.wait()
        return step


class _RefusingEngine(FakeLlmEngine):
    """Gives up every sequence instead of answering."""

    async def step(self) -> tuple[list[Answer], list[Refusal]]:
        answers, refusals = await super().step()
        for answer in answers:
            self.release(answer.sequence_id)
            refusals.append(Refusal(answer.sequence_id, CapacityExceeded("kv_cache_tokens: full")))
        return [], refusals


async def test_sequence_given_up_by_the_engine_is_reported_and_forgotten() -> None:
    async with _llm(_RefusingEngine(OPTIONS)) as llm:
        call, other = llm.stub.Extend(), llm.stub.Extend()
        for stream in (call, other):
            await stream.write(_request(_extend(1, 0, [1], [1])))
            error = await _error(stream)
            assert (error.sequence_id, CODES[error.code]) == (1, grpc.StatusCode.RESOURCE_EXHAUSTED)


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (_request(_extend(5, 0, [1], [1]), llm_pb2.ExtendCommand(sequence_id=1)), "commands[1].command"),
        (_request(_extend(0, 0, [1], [1])), "commands[0].sequence_id"),
    ],
)
async def test_malformed_message_ends_its_stream_only(request_: llm_pb2.ExtendRequest, field: str) -> None:
    async with _llm() as llm:
        other = llm.stub.Extend()
        await other.write(_request(_extend(9, 0, [9], [1])))
        await _answer(other)
        error = await error_of(llm.stub.Extend(), request_)
        assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert field in str(error.details())
        assert await llm.num_active() == 1
        await other.write(_request(_extend(9, 1, [9], [2])))
        assert await _answer(other)


async def test_foreign_sequence_cannot_be_extended_or_released() -> None:
    async with _llm() as llm:
        owner, intruder = llm.stub.Extend(), llm.stub.Extend()
        await owner.write(_request(_extend(1, 0, [1], [1])))
        await _answer(owner)
        await intruder.write(_request(_release(1), _extend(1, 0, [2], [1])))
        error = await _error(intruder)
        assert (CODES[error.code], error.sequence_id) == (grpc.StatusCode.ABORTED, 1)
        await owner.write(_request(_extend(1, 1, [2], [2])))
        assert list((await _answer(owner)).token_ids) == _expected([1, 2], [2])


@pytest.mark.parametrize("how", ["cancel", "half-close"])
async def test_stream_ended_releases_its_sequences_within_a_second(how: str) -> None:
    async with _llm() as llm:
        call = llm.stub.Extend()
        await call.write(_request(_extend(1, 0, [1], [1]), _extend(2, 0, [2], [1])))
        await read(call)
        assert await llm.num_active() == 2
        if how == "cancel":
            call.cancel()
        else:
            await call.done_writing()

        async def is_free() -> bool:
            return await llm.num_active() == 0

        await until(is_free, timeout_s=1.0)


async def test_drain_held_sequences_go_on_new_ones_are_refused_then_streams_end() -> None:
    async with _llm() as llm:
        call = llm.stub.Extend()
        await call.write(_request(_extend(1, 0, [1], [1])))
        await _answer(call)
        await llm.lifecycle.mark_draining()
        draining = asyncio.create_task(llm.servicer.drain())
        await call.write(_request(_extend(1, 1, [2], [2])))
        await _answer(call)
        await call.write(_request(_extend(2, 0, [2], [1])))
        assert CODES[(await _error(call)).code] == grpc.StatusCode.UNAVAILABLE
        assert not draining.done()
        assert (await error_of(call, _request(_release(1)))).code() == grpc.StatusCode.UNAVAILABLE
        await draining


async def test_server_info_describes_model_and_replica() -> None:
    async with _llm() as llm:
        info = await llm.stub.GetServerInfo(llm_pb2.LlmServiceGetServerInfoRequest())
        assert (info.model.model_id, info.model.vocab_size, info.replica.replica_id) == ("llm", 128, "r1")
        assert info.load.num_kv_tokens_capacity == 1000
