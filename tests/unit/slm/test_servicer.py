from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from trivium.v1 import common_pb2, slm_pb2, slm_pb2_grpc

from services.common.errors import CapacityExceeded
from services.common.serving.lifecycle import Lifecycle
from services.common.tensors import unpack
from services.common.weights import digest_weights
from services.engines.base import DraftStep, EngineOptions, Refusal
from services.engines.fakes import FakeSlmEngine, fake_next_token
from services.slm.servicer import SERVICE_NAME, SlmServicer
from tests.serving import error_of, read, serving, until

OPTIONS = EngineOptions(model="slm", kv_cache_tokens=1000, max_batch_size=4)
CODES = {code.value[0]: code for code in grpc.StatusCode}


class _Slm:
    def __init__(self, channel: grpc.aio.Channel, lifecycle: Lifecycle, servicer: SlmServicer) -> None:
        self.stub = slm_pb2_grpc.SlmServiceStub(channel)
        self.lifecycle = lifecycle
        self.servicer = servicer

    async def num_active(self) -> int:
        info = await self.stub.GetServerInfo(slm_pb2.SlmServiceGetServerInfoRequest())
        return info.load.num_active_sequences


@asynccontextmanager
async def _slm(engine: FakeSlmEngine | None = None, **options: Any) -> AsyncIterator[_Slm]:
    lifecycle = Lifecycle(SERVICE_NAME, "r1")
    servicer = SlmServicer(lambda: engine or FakeSlmEngine(OPTIONS), lifecycle, **options)
    async with serving(servicer, lifecycle) as channel:
        yield _Slm(channel, lifecycle, servicer)


def _command(sequence_id: int, **command: Any) -> slm_pb2.DraftCommand:
    return slm_pb2.DraftCommand(sequence_id=sequence_id, **command)


def _open(sequence_id: int, token_ids: list[int], draft_until: int, **fields: Any) -> slm_pb2.DraftCommand:
    fields = {"token_ids": token_ids, "draft_until": draft_until, **fields}
    return _command(sequence_id, open=slm_pb2.OpenSequence(**fields))


def _request(*commands: slm_pb2.DraftCommand) -> slm_pb2.DraftRequest:
    return slm_pb2.DraftRequest(commands=commands)


async def _drafts(call: Any, num_rows: int) -> dict[int, list[tuple[int, int, int]]]:
    """Reads rows as (position, epoch, token id) by sequence."""
    rows: dict[int, list[tuple[int, int, int]]] = {}
    while sum(map(len, rows.values())) < num_rows:
        response = await read(call)
        assert not response.errors
        columns = (response.sequence_ids, response.positions, response.epochs, response.token_ids)
        for sequence_id, *row in zip(*columns, strict=True):
            rows.setdefault(sequence_id, []).append(tuple(row))
    return rows


async def _error(call: Any) -> common_pb2.SequenceError:
    while True:
        response: slm_pb2.DraftResponse = await read(call)
        if response.errors:
            [error] = response.errors
            return error


def _expected(token_ids: list[int], num_drafts: int, epoch: int = 0) -> list[tuple[int, int, int]]:
    token_ids, rows = list(token_ids), []
    for _ in range(num_drafts):
        rows.append((len(token_ids), epoch, fake_next_token("slm", token_ids)))
        token_ids.append(rows[-1][2])
    return rows


async def test_open_drafts_up_to_the_window_with_features() -> None:
    async with _slm() as slm:
        call = slm.stub.Draft()
        await call.write(_request(_open(7, [1, 2, 3], 4)))
        response = await read(call)
        assert list(response.positions) == [3]
        assert list(response.token_ids) == [fake_next_token("slm", [1, 2, 3])]
        assert [(opened.sequence_id, opened.num_tokens_prefilled) for opened in response.opened] == [(7, 3)]
        hidden_states = unpack(response.hidden_states, field="hidden_states", shape=(1, 8))
        np.testing.assert_array_equal(hidden_states[0], np.arange(8, 0, -1))
        assert unpack(response.top_logits, field="top_logits", shape=(1, 100)).shape == (1, 100)


async def test_server_info_tells_which_weights_are_served(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    options = EngineOptions(model=str(tmp_path), kv_cache_tokens=1000)
    async with _slm(FakeSlmEngine(options)) as slm:
        info = await slm.stub.GetServerInfo(slm_pb2.SlmServiceGetServerInfoRequest())
    assert info.model.weights_revision == digest_weights(tmp_path)


async def test_grant_widens_the_window() -> None:
    async with _slm() as slm:
        call = slm.stub.Draft()
        await call.write(_request(_open(7, [1], 3), _command(7, grant=slm_pb2.GrantDraft(draft_until=6))))
        assert await _drafts(call, 5) == {7: _expected([1], 5)}


async def test_rewind_drafts_on_under_the_new_epoch() -> None:
    async with _slm() as slm:
        call = slm.stub.Draft()
        await call.write(_request(_open(7, [1, 2], 4)))
        await _drafts(call, 2)
        rewind = slm_pb2.RewindSequence(length=2, token_ids=[9], epoch=1, draft_until=5)
        await call.write(_request(_command(7, rewind=rewind)))
        assert await _drafts(call, 2) == {7: _expected([1, 2, 9], 2, epoch=1)}


async def test_two_streams_share_steps_and_get_their_own_rows_only() -> None:
    engine = FakeSlmEngine(OPTIONS)
    async with _slm(engine) as slm:
        calls = [slm.stub.Draft(), slm.stub.Draft()]
        prefixes = {1: [1], 2: [2], 3: [3]}
        await calls[0].write(_request(_open(1, prefixes[1], 41), _open(3, prefixes[3], 41)))
        await calls[1].write(_request(_open(2, prefixes[2], 41)))
        mine, other = await asyncio.gather(_drafts(calls[0], 80), _drafts(calls[1], 40))
        assert mine == {1: _expected([1], 40), 3: _expected([3], 40)}
        assert other == {2: _expected([2], 40)}
        # One of them may run some steps alone before the other is opened.
        assert engine.load.num_rows / engine.load.num_steps > 1.2


async def test_step_without_room_for_all_tells_how_many_wait() -> None:
    async with _slm() as slm:
        call = slm.stub.Draft()
        await call.write(_request(*(_open(sequence_id, [sequence_id], 3) for sequence_id in range(1, 7))))
        assert (await read(call)).num_waiting_sequences == 2


async def test_drafts_tell_how_many_sequences_other_streams_have_open() -> None:
    async with _slm() as slm:
        other, call = slm.stub.Draft(), slm.stub.Draft()
        await other.write(_request(_open(1, [1], 2), _open(2, [2], 2)))
        await _drafts(other, 2)
        await call.write(_request(_open(3, [3], 2)))
        assert (await read(call)).num_other_sequences == 2


@pytest.mark.parametrize(
    ("command", "code", "word"),
    [
        (_open(1, [], 5), grpc.StatusCode.INVALID_ARGUMENT, "token_ids"),
        (_open(1, [5, 128], 5), grpc.StatusCode.INVALID_ARGUMENT, "128 is outside the vocabulary"),
        (_open(1, [1] * 256, 300), grpc.StatusCode.OUT_OF_RANGE, "token_ids"),
        (_open(2, [1], 5), grpc.StatusCode.INVALID_ARGUMENT, "open already"),
        (
            _open(1, [1], 5, sampling=common_pb2.SamplingParams(temperature=float("nan"))),
            grpc.StatusCode.INVALID_ARGUMENT,
            "sampling.temperature",
        ),
        (
            _open(1, [1], 5, sampling=common_pb2.SamplingParams(top_p=1.5)),
            grpc.StatusCode.INVALID_ARGUMENT,
            "sampling.top_p",
        ),
        (_command(1, rewind=slm_pb2.RewindSequence(length=1)), grpc.StatusCode.NOT_FOUND, "sequence_id"),
        (_command(2, rewind=slm_pb2.RewindSequence(length=99)), grpc.StatusCode.ABORTED, "length"),
    ],
)
async def test_command_refused_closes_its_sequence_only(
    command: slm_pb2.DraftCommand, code: grpc.StatusCode, word: str
) -> None:
    async with _slm() as slm:
        call = slm.stub.Draft()
        await call.write(_request(_open(2, [2], 3), _open(3, [3], 3)))
        await _drafts(call, 4)
        await call.write(_request(command))
        error = await _error(call)
        assert (error.sequence_id, CODES[error.code]) == (command.sequence_id, code)
        assert word in error.message
        assert await slm.num_active() == (1 if command.sequence_id == 2 else 2)
        await call.write(_request(_command(3, grant=slm_pb2.GrantDraft(draft_until=4))))
        assert await _drafts(call, 1)


async def test_sequence_beyond_the_kv_budget_waits_until_another_closes() -> None:
    engine = FakeSlmEngine(EngineOptions(model="slm", kv_cache_tokens=10), idle_s=60)
    async with _slm(engine) as slm:
        call = slm.stub.Draft()
        await call.write(_request(_open(1, [1] * 8, 9)))
        await _drafts(call, 1)
        await call.write(_request(_open(2, [2] * 8, 9, priority=1), _open(3, [3] * 8, 9, priority=2)))

        async def wait_for_room() -> bool:
            return engine.load.num_sequences_without_room == 2

        await until(wait_for_room)
        await call.write(_request(_command(1, close=slm_pb2.CloseSequence())))
        assert await _drafts(call, 1) == {2: _expected([2] * 8, 1)}
        await call.write(_request(_command(2, close=slm_pb2.CloseSequence())))
        assert await _drafts(call, 1) == {3: _expected([3] * 8, 1)}


class _Prefilling(FakeSlmEngine):
    """Completes passes that bring no draft, as many as it is permitted."""

    def __init__(self) -> None:
        super().__init__(OPTIONS)
        self.permits = asyncio.Semaphore(0)

    async def step(self) -> DraftStep:
        await self.permits.acquire()
        features = (np.empty((0, 8), np.float32), np.empty((0, 100), np.float32))
        return DraftStep([], [], [], [], *features, num_waiting_sequences=2, num_sequences_without_room=3)


async def _heartbeats_until_error(call: Any) -> list[slm_pb2.DraftResponse]:
    """Makes the service refuse something; returns what it sent before it says so."""
    await call.write(_request(_command(99, rewind=slm_pb2.RewindSequence())))
    responses: list[slm_pb2.DraftResponse] = []
    while not (response := await read(call)).errors:
        responses.append(response)
    return responses


async def test_stream_that_waits_hears_of_each_completed_pass_and_of_nothing_else() -> None:
    engine = _Prefilling()
    async with _slm(engine, heartbeat_s=0) as slm:
        call = slm.stub.Draft()
        await call.write(_request(_open(1, [1, 2], 5)))
        assert await _heartbeats_until_error(call) == []
        for num_passes in (1, 2):
            for _ in range(num_passes):
                engine.permits.release()
                response = await read(call)
                assert response == slm_pb2.DraftResponse(num_waiting_sequences=2, num_sequences_without_room=3)
            assert await _heartbeats_until_error(call) == []


@pytest.mark.parametrize("heartbeat_s", [0, 3600])
async def test_stream_without_open_windows_or_told_lately_hears_of_no_pass(heartbeat_s: float) -> None:
    engine = _Prefilling()
    async with _slm(engine, heartbeat_s=heartbeat_s) as slm:
        waiting, idle, call = slm.stub.Draft(), slm.stub.Draft(), slm.stub.Draft()
        await waiting.write(_request(_open(1, [1, 2], 5)))
        await idle.write(_request(_open(2, [1, 2], 2)))
        await call.write(_request(_open(3, [1, 2], 5), _command(3, close=slm_pb2.CloseSequence())))
        for stream in (waiting, idle, call):
            assert await _heartbeats_until_error(stream) == []
        engine.permits.release()
        await until(lambda: engine.permits.locked())
        assert len(await _heartbeats_until_error(waiting)) == (0 if heartbeat_s else 1)
        assert await _heartbeats_until_error(idle) == []
        assert await _heartbeats_until_error(call) == []


class _RefusingEngine(FakeSlmEngine):
    """Gives up each sequence after its first draft."""

    def __init__(self, error: Exception) -> None:
        super().__init__(OPTIONS)
        self._error = error

    async def step(self) -> DraftStep:
        step = await super().step()
        for sequence_id in step.sequence_ids:
            self.close(sequence_id)
            step.refusals.append(Refusal(sequence_id, self._error))
        return step


@pytest.mark.parametrize(
    ("raised", "code", "message"),
    [
        (CapacityExceeded("kv_cache_tokens: full"), grpc.StatusCode.RESOURCE_EXHAUSTED, "kv_cache_tokens: full"),
        (RuntimeError("secret"), grpc.StatusCode.INTERNAL, "internal error"),
    ],
)
async def test_sequence_given_up_by_the_engine_is_reported(
    raised: Exception, code: grpc.StatusCode, message: str
) -> None:
    async with _slm(_RefusingEngine(raised)) as slm:
        call = slm.stub.Draft()
        await call.write(_request(_open(1, [1], 5)))
        error = await _error(call)
        assert (error.sequence_id, CODES[error.code], error.message) == (1, code, message)


class _OverflowingEngine(FakeSlmEngine):
    """Its features overflow after token 5."""

    def __init__(self, field: str) -> None:
        super().__init__(OPTIONS)
        self._field = field

    async def step(self) -> DraftStep:
        step = await super().step()
        for row, sequence_id in enumerate(step.sequence_ids):
            if self._sequences[sequence_id].token_ids[0] == 5:
                getattr(step, self._field)[row, 1] = np.inf
        return step


@pytest.mark.parametrize("field", ["hidden_states", "top_logits"])
async def test_sequence_whose_features_overflow_is_refused_alone(field: str) -> None:
    async with _slm(_OverflowingEngine(field)) as slm:
        call, other = slm.stub.Draft(), slm.stub.Draft()
        await other.write(_request(_open(2, [6], 4)))
        await call.write(_request(_open(1, [5], 9)))
        error = await _error(call)
        assert (error.sequence_id, CODES[error.code]) == (1, grpc.StatusCode.INTERNAL)
        assert "not finite" in error.message
        await other.write(_request(_open(3, [7], 4)))
        assert set(await _drafts(other, 6)) == {2, 3}
        assert await slm.num_active() == 2


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (_request(_open(5, [1], 2), slm_pb2.DraftCommand(sequence_id=1)), "commands[1].command"),
        (_request(_open(0, [1], 2)), "commands[0].sequence_id"),
    ],
)
async def test_malformed_message_ends_its_stream_only(request_: slm_pb2.DraftRequest, field: str) -> None:
    async with _slm() as slm:
        other = slm.stub.Draft()
        await other.write(_request(_open(9, [9], 2)))
        await _drafts(other, 1)
        error = await error_of(slm.stub.Draft(), request_)
        assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert field in str(error.details())
        assert await slm.num_active() == 1
        await other.write(_request(_command(9, grant=slm_pb2.GrantDraft(draft_until=3))))
        assert await _drafts(other, 1)


async def test_foreign_sequence_cannot_be_opened_rewound_granted_or_closed() -> None:
    async with _slm() as slm:
        owner, intruder = slm.stub.Draft(), slm.stub.Draft()
        await owner.write(_request(_open(1, [1], 2)))
        await _drafts(owner, 1)
        rewind = slm_pb2.RewindSequence(length=1, epoch=5, draft_until=9)
        for command, code in (
            (_open(1, [2], 3), grpc.StatusCode.ABORTED),
            (_command(1, rewind=rewind), grpc.StatusCode.NOT_FOUND),
        ):
            await intruder.write(_request(command))
            assert CODES[(await _error(intruder)).code] == code
        grant, close = slm_pb2.GrantDraft(draft_until=9), slm_pb2.CloseSequence()
        await intruder.write(_request(_command(1, grant=grant), _command(1, close=close), _open(2, [2], 2)))
        assert set(await _drafts(intruder, 1)) == {2}
        assert await slm.num_active() == 2
        await owner.write(_request(_command(1, grant=slm_pb2.GrantDraft(draft_until=3))))
        assert await _drafts(owner, 1) == {1: _expected([1], 2)[1:]}


@pytest.mark.parametrize("how", ["cancel", "half-close"])
async def test_stream_ended_frees_its_sequences_within_a_second(how: str) -> None:
    async with _slm() as slm:
        call = slm.stub.Draft()
        await call.write(_request(*(_open(sequence_id, [1], 200) for sequence_id in range(1, 5))))
        await _drafts(call, 4)
        if how == "cancel":
            call.cancel()
        else:
            await call.done_writing()

        async def is_free() -> bool:
            return await slm.num_active() == 0

        await until(is_free, timeout_s=1.0)


async def test_slow_reader_loses_its_stream_and_sequences_and_others_go_on() -> None:
    engine = FakeSlmEngine(EngineOptions(model="slm", max_batch_size=64))
    async with _slm(engine, max_pending_bytes=200_000) as slm:
        slow, other = slm.stub.Draft(), slm.stub.Draft()
        # Drafts of about 5 MB: far more than flow control and the limit let wait.
        await slow.write(_request(*(_open(sequence_id, [sequence_id], 250) for sequence_id in range(1, 60))))
        await other.write(_request(_open(1000, [1], 200)))
        assert len((await _drafts(other, 199))[1000]) == 199

        async def only_other_is_open() -> bool:
            return await slm.num_active() == 1

        await until(only_other_is_open)
        assert (await error_of(slow)).code() == grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_drain_open_sequences_go_on_new_ones_are_refused_then_streams_end() -> None:
    async with _slm() as slm:
        call = slm.stub.Draft()
        await call.write(_request(_open(1, [1], 2)))
        await _drafts(call, 1)
        await slm.lifecycle.mark_draining()
        draining = asyncio.create_task(slm.servicer.drain())
        await call.write(_request(_command(1, grant=slm_pb2.GrantDraft(draft_until=3))))
        await _drafts(call, 1)
        await call.write(_request(_open(2, [2], 9)))
        assert CODES[(await _error(call)).code] == grpc.StatusCode.UNAVAILABLE
        assert not draining.done()
        error = await error_of(call, _request(_command(1, close=slm_pb2.CloseSequence())))
        assert error.code() == grpc.StatusCode.UNAVAILABLE
        await draining


async def test_server_info_describes_model_replica_and_load() -> None:
    async with _slm() as slm:
        call = slm.stub.Draft()
        await call.write(_request(_open(1, [1, 2], 3)))
        await _drafts(call, 1)
        info = await slm.stub.GetServerInfo(slm_pb2.SlmServiceGetServerInfoRequest())
        assert (info.model.model_id, info.model.vocab_size, info.model.context_length) == ("slm", 128, 256)
        assert (list(info.model.eos_token_ids), info.model.hidden_size, info.model.engine) == ([0], 8, "fake")
        assert (info.replica.replica_id, info.replica.version, info.replica.draining) == ("r1", "0.1.0", False)
        assert (info.load.num_active_sequences, info.load.num_steps, info.load.num_rows) == (1, 1, 1)
