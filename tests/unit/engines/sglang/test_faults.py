"""What a message that can't be used costs, and what becomes of requests that SGLang fails."""

from __future__ import annotations

import asyncio

import pytest

pytest.importorskip("services.engines.sglang", exc_type=ModuleNotFoundError)
from services.common.errors import CapacityExceeded, InvalidRequest, ModelNotReady, TriviumError
from services.engines.base import DraftStep, Extension
from services.engines.fakes import fake_next_token
from services.engines.sglang.chunks import PROGRESS, pack_news
from services.engines.sglang.frames import pack_frame
from services.engines.sglang.llm import SglangLlmEngine
from services.engines.sglang.rows import pack_row
from services.engines.sglang.slm import SglangSlmEngine
from services.engines.sglang.troubles import Trouble
from tests.unit.engines.sglang.engines import NEVER_STOPS, STEP_TIMEOUT_S, running_llm, running_slm
from tests.unit.engines.sglang.fake_process import FakeSglangProcess


async def open_one(engine: SglangSlmEngine, process: FakeSglangProcess, sequence_id: int) -> None:
    num_requests = len(process.submitted)
    engine.open(
        sequence_id,
        [sequence_id, 7],
        epoch=1,
        draft_until=4,
        stop_token_ids=NEVER_STOPS,
        priority=sequence_id,
    )
    await process.until_submitted(num_requests + 1)


async def ask_one(engine: SglangLlmEngine, process: FakeSglangProcess, extension: Extension) -> None:
    num_requests = len(process.submitted)
    engine.extend(extension)
    await process.until_submitted(num_requests + 1)


async def step_of(engine: SglangSlmEngine) -> DraftStep:
    return await asyncio.wait_for(engine.step(), STEP_TIMEOUT_S)


def output(**fields: object) -> dict[str, object]:
    """A well-formed header of a chunk with one token, but for `fields`."""
    header = {
        "request_id": "0000000000000001",
        "token_ids": [5],
        "choices": [],
        "num_prompt_tokens": 2,
        "num_cached_tokens": 0,
        "is_last": False,
    }
    return header | fields


@pytest.mark.parametrize(
    ("header", "body"),
    [
        (output(token_ids=[5, 6]), pack_row(1, 1, None)),
        (output(), b""),
        (output(), b"short"),
        (output(), pack_row(1, 1, None)),
        (output(token_ids=["5"]), pack_row(1, 1, None)),
        (output(token_ids=None), b""),
        (output(num_prompt_tokens="2"), b""),
        (output(is_last=1, token_ids=[]), b""),
        (output(is_last=True, token_ids=[]), b""),
        ({"request_id": "0000000000000001", "trouble": "unheard of", "message": ""}, b""),
        ({"request_id": "0000000000000001", "trouble": "fault"}, b""),
    ],
)
async def test_malformed_chunk_costs_its_sequence_and_nobody_else(header: dict[str, object], body: bytes) -> None:
    async with running_slm() as (engine, process):
        process.is_held = True
        await open_one(engine, process, 1)
        await open_one(engine, process, 2)
        process.say(pack_frame(header, body))
        step = await step_of(engine)
        (refusal,) = step.refusals
        assert refusal.sequence_id == 1
        assert type(refusal.error) is TriviumError
        assert (step.sequence_ids, engine.load.num_active_sequences) == ([], 1)
        process.draft(process.submitted[-1])
        assert (await step_of(engine)).sequence_ids == [2]


@pytest.mark.parametrize("choices", [[], [1], [1, 2], [1, 2, 3, 4]])
async def test_llm_answer_with_another_number_of_choices_costs_its_sequence(choices: list[int]) -> None:
    async with running_llm() as (engine, process):
        process.is_held = True
        await ask_one(engine, process, Extension(1, 0, [1, 2, 3, 4], [1, 3, 4], priority=1))
        process.say(pack_frame(output(choices=choices, is_last=True), pack_row(1, 1, None)))
        _answers, (refusal,) = await asyncio.wait_for(engine.step(), STEP_TIMEOUT_S)
        assert type(refusal.error) is TriviumError
        assert engine.load.num_active_sequences == 0


async def test_llm_request_that_ends_without_a_token_is_not_asked_again_for_ever() -> None:
    async with running_llm() as (engine, process):
        process.is_held = True
        await ask_one(engine, process, Extension(1, 0, [1, 2], [2], priority=1))
        process.say(pack_frame(output(token_ids=[], is_last=True), b""))
        _answers, (refusal,) = await asyncio.wait_for(engine.step(), STEP_TIMEOUT_S)
        assert refusal.sequence_id == 1
        # One of them is the warm-up's.
        assert len(process.submitted) == 2


@pytest.mark.parametrize(
    "frame", [b"\0" * 7 + b"\x7f", pack_frame({}) + b"\3\0\0\0\0\0\0\0{!}", b"\1\0\0\0\0\0\0\0" + b"7"]
)
async def test_stream_that_is_broken_ends_the_engine(frame: bytes) -> None:
    async with running_slm() as (engine, process):
        process.is_held = True
        await open_one(engine, process, 1)
        process.say(frame)
        for _ in range(2):
            with pytest.raises(ModelNotReady, match="SGLang can't be understood"):
                await step_of(engine)


async def test_malformed_message_about_an_aborted_request_costs_nothing() -> None:
    async with running_slm() as (engine, process):
        process.is_held = True
        await open_one(engine, process, 1)
        engine.rewind(1, length=1, token_ids=[9], epoch=2, draft_until=4)
        await process.until_submitted(3)
        process.say(pack_frame(output(token_ids=None)))
        process.draft(process.submitted[-1])
        step = await step_of(engine)
        assert (step.sequence_ids, step.refusals) == ([1], [])


@pytest.mark.parametrize(("trouble", "error"), [(Trouble.REFUSED, InvalidRequest), (Trouble.FAULT, TriviumError)])
async def test_lasting_trouble_refuses_the_sequence_at_once(trouble: Trouble, error: type[TriviumError]) -> None:
    async with running_slm() as (engine, process):
        process.is_held = True
        await open_one(engine, process, 1)
        process.fail(process.submitted[-1], trouble, "because")
        (refusal,) = (await step_of(engine)).refusals
        assert type(refusal.error) is error
        assert "because" in str(refusal.error)
        assert len(process.submitted) == 2


async def test_passing_trouble_is_tried_again_without_a_word() -> None:
    async with running_slm() as (engine, process):
        process.is_held = True
        await open_one(engine, process, 1)
        process.fail(process.submitted[-1], Trouble.PASSES)
        await process.until_submitted(3)
        process.draft(process.submitted[-1])
        step = await step_of(engine)
        assert step.refusals == []
        assert step.token_ids == [fake_next_token("fake", [1, 7])]


async def test_trouble_that_never_passes_is_told_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.engines.sglang.requests.FIRST_RETRY_S", 0.001)
    async with running_slm() as (engine, process):
        process.is_held = True
        await open_one(engine, process, 1)
        for num_requests in range(2, 8):
            await process.until_submitted(num_requests)
            process.fail(process.submitted[-1], Trouble.PASSES)
        (refusal,) = (await step_of(engine)).refusals
        assert type(refusal.error) is CapacityExceeded


async def test_sequence_closed_while_it_waits_for_another_try_is_not_tried() -> None:
    async with running_slm() as (engine, process):
        process.is_held = True
        await open_one(engine, process, 1)
        process.fail(process.submitted[-1], Trouble.PASSES)
        await process.until_read()
        engine.close(1)
        await asyncio.sleep(0.2)
        assert len(process.submitted) == 2


async def test_progress_returns_an_empty_step_while_requests_are_outstanding() -> None:
    async with running_slm() as (engine, process):
        process.is_held = True
        await open_one(engine, process, 1)
        for _ in range(2):
            process.say(pack_news(PROGRESS))
            step = await step_of(engine)
            assert (step.sequence_ids, step.refusals, step.hidden_states.shape) == ([], [], (0, 8))
        engine.close(1)
        process.say(pack_news(PROGRESS))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(engine.step(), 0.2)


async def test_llm_progress_returns_an_empty_step_while_requests_are_outstanding() -> None:
    async with running_llm() as (engine, process):
        process.is_held = True
        await ask_one(engine, process, Extension(1, 0, [1, 2], [2]))
        process.say(pack_news(PROGRESS))
        assert await asyncio.wait_for(engine.step(), STEP_TIMEOUT_S) == ([], [])
        engine.release(1)
        process.say(pack_news(PROGRESS))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(engine.step(), 0.2)


async def test_answer_of_a_released_or_newly_asked_sequence_is_not_handed_out() -> None:
    async with running_llm() as (engine, process):
        process.is_held = True
        await ask_one(engine, process, Extension(1, 0, [1, 2], [2], pass_id=1))
        engine.extend(Extension(2, 0, [3, 4], [2], pass_id=1))
        for request in list(process.requests.values()):
            process.draft(request)
        await process.until_read()
        engine.release(1)
        await ask_one(engine, process, Extension(2, 2, [5], [3], pass_id=2))
        process.draft(process.submitted[-1])
        answers, _refusals = await asyncio.wait_for(engine.step(), STEP_TIMEOUT_S)
        assert [(answer.sequence_id, answer.pass_id) for answer in answers] == [(2, 2)]
