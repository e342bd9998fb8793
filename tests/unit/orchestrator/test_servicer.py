"""What clients of an orchestrator see of its checks, its places and its limits, over a real connection."""

from __future__ import annotations

import asyncio
import json
import logging
import random
from typing import Any

import grpc
import psutil
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from trivium.v1 import common_pb2, orchestrator_pb2

from services.common.serving.call_limits import MAX_READING
from services.engines.fakes import FakeLlmEngine
from services.orchestrator.requests.prompt import PromptReader
from tests.serving import read, until
from tests.unit.common.text.templates import QWEN3
from tests.unit.orchestrator.cluster import llm_replica, make_tokenizer
from tests.unit.orchestrator.front import Front, running_front

pb = orchestrator_pb2
CODE = grpc.StatusCode
PATIENCE_S = 60.0


class _GatedLlm(FakeLlmEngine):
    """An LLM that answers nothing before its gate is opened."""

    def __init__(self, options: Any) -> None:
        super().__init__(options)
        self.gate = asyncio.Event()

    async def step(self) -> Any:
        await self.gate.wait()
        return await super().step()


@pytest.fixture
def read_prompts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Texts in the order in which they are tokenized."""
    texts: list[str] = []
    original = PromptReader.read

    async def reading(self: PromptReader, prompt: Any) -> Any:
        texts.append(prompt.text)
        return await original(self, prompt)

    monkeypatch.setattr(PromptReader, "read", reading)
    return texts


class _Reading:
    """Tokenizing that can be held up."""

    def __init__(self) -> None:
        self.may_end = asyncio.Event()
        self.may_end.set()
        self.num_reading = 0
        self.kept: Any = None


@pytest.fixture
def reading(monkeypatch: pytest.MonkeyPatch) -> _Reading:
    state = _Reading()
    original = PromptReader.read

    async def read_later(self: PromptReader, prompt: Any) -> Any:
        state.num_reading += 1
        try:
            await state.may_end.wait()
            return await original(self, prompt)
        finally:
            state.num_reading -= 1

    monkeypatch.setattr(PromptReader, "read", read_later)
    return state


async def _fill_up_to(stage: str, front: Front, reading: _Reading) -> None:
    """Makes the next request stay at a stage."""
    if stage == "waiting":
        reading.kept = front.stub.Generate(request("w1"))
        await until(lambda: front.cluster.llms[0].num_sequences == 1, PATIENCE_S)
    elif stage == "tokenized":
        reading.may_end.clear()


async def _until_at(stage: str, front: Front, reading: _Reading) -> None:
    """Waits until the request stays there."""
    arrived = {
        "running": lambda: front.cluster.llms[0].num_sequences == 1,
        "waiting": lambda: front.cluster.driver.admission.num_waiting == 1,
        "tokenized": lambda: reading.num_reading == 1,
    }
    await until(arrived[stage], PATIENCE_S)


def request(text: str = "w5", **fields: Any) -> pb.GenerateRequest:
    return pb.GenerateRequest(text=text, **({"threshold": 0.0, "max_new_tokens": 5} | fields))


async def status(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as error:  # noqa: PT012
        while await call.read() is not grpc.aio.EOF:
            pass
    return error.value


async def finish(call: Any) -> pb.Finish:
    async for response in call:
        if response.HasField("finish"):
            ended: pb.Finish = response.finish
            return ended
    raise AssertionError("the stream ended with OK, but without its last message")


def gate_of(front: Front) -> asyncio.Event:
    gate: asyncio.Event = front.cluster.llms[0].engine.gate
    return gate


async def test_prompts_are_tokenized_once_their_request_has_its_place(read_prompts: list[str]) -> None:
    gated = {"llms": [llm_replica(_GatedLlm)]}
    async with running_front(replicas=gated, max_active_requests=1, max_waiting_requests=2) as front:
        driver = front.cluster.driver
        calls = [front.stub.Generate(request("w1"))]
        await until(lambda: driver.admission.num_active == 1, PATIENCE_S)
        calls.append(front.stub.Generate(request("w2")))
        await until(lambda: driver.admission.num_waiting == 1, PATIENCE_S)
        calls.append(front.stub.Generate(request("w3")))
        await until(lambda: driver.admission.num_waiting == 2, PATIENCE_S)
        refused = await status(front.stub.Generate(request("w4")))
        assert refused.code() == CODE.RESOURCE_EXHAUSTED
        assert read_prompts == ["w1"]
        gate_of(front).set()
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(*map(finish, calls))
        assert read_prompts == ["w1", "w2", "w3"]


async def test_bad_request_is_told_what_is_wrong_also_when_all_places_are_taken() -> None:
    gated = {"llms": [llm_replica(_GatedLlm)]}
    async with running_front(replicas=gated, max_active_requests=1, max_waiting_requests=0) as front:
        running = front.stub.Generate(request())
        await until(lambda: front.cluster.driver.admission.num_active == 1, PATIENCE_S)
        context_len = front.cluster.driver.context_len
        for bad, code, field in (
            (request("w1", max_new_tokens=0), CODE.INVALID_ARGUMENT, "max_new_tokens"),
            (request("w1", request_id="r" * 129), CODE.INVALID_ARGUMENT, "request_id"),
            (pb.GenerateRequest(token_ids=pb.TokenIds(token_ids=[128])), CODE.INVALID_ARGUMENT, "token_ids"),
            (pb.GenerateRequest(token_ids=pb.TokenIds(token_ids=[1] * context_len)), CODE.OUT_OF_RANGE, "token_ids"),
            (request("x" * 128 * context_len), CODE.OUT_OF_RANGE, "text"),
            (request("w1"), CODE.RESOURCE_EXHAUSTED, "max_waiting_requests"),
        ):
            error = await status(front.stub.Generate(bad))
            assert (error.code(), (error.details() or "").partition(":")[0]) == (code, field)
        running.cancel()


async def test_client_that_resumes_does_not_wait_for_the_place_of_its_own_old_stream() -> None:
    gated = {"llms": [llm_replica(_GatedLlm)]}
    async with running_front(replicas=gated, max_active_requests=1, max_waiting_requests=1) as front:
        old = front.stub.Generate(request(request_id="r"))
        await until(lambda: front.cluster.llms[0].num_sequences == 1, PATIENCE_S)
        second = await status(front.stub.Generate(request(request_id="r")))
        assert (second.code(), second.details()) == (
            CODE.INVALID_ARGUMENT,
            "request_id: 'r' is running already",
        )
        other = await status(front.stub.Generate(request("w9", request_id="r", resume_from=1)))
        assert other.code() == CODE.INVALID_ARGUMENT
        resumed = front.stub.Generate(request(request_id="r", resume_from=1))
        assert (await status(old)).code() == CODE.CANCELLED
        gate_of(front).set()
        async with asyncio.timeout(PATIENCE_S):
            assert (await finish(resumed)).usage.num_completion_tokens > 0


@pytest.mark.parametrize("stage", ["running", "waiting", "tokenized"])
async def test_resume_at_zero_takes_its_old_stream_over_wherever_that_is(stage: str, reading: _Reading) -> None:
    gated = {"llms": [llm_replica(_GatedLlm)]}
    async with running_front(replicas=gated, max_active_requests=1, max_waiting_requests=2) as front:
        await _fill_up_to(stage, front, reading)
        old = front.stub.Generate(request(request_id="r"))
        await _until_at(stage, front, reading)
        second = await status(front.stub.Generate(request(request_id="r")))
        assert (second.code(), second.details()) == (CODE.INVALID_ARGUMENT, "request_id: 'r' is running already")
        reading.may_end.set()
        other = await status(front.stub.Generate(request("w9", request_id="r", resume_from=0)))
        assert (other.code(), other.details()) == (CODE.INVALID_ARGUMENT, "request_id: 'r' is running already")
        resumed = front.stub.Generate(request(request_id="r", resume_from=0))
        ended = await asyncio.wait_for(status(old), PATIENCE_S)
        assert (ended.code(), ended.details()) == (CODE.CANCELLED, "request 'r' was resumed elsewhere")
        gate_of(front).set()
        async with asyncio.timeout(PATIENCE_S):
            assert (await finish(resumed)).usage.num_completion_tokens > 0
        await until(lambda: front.cluster.is_empty, PATIENCE_S)


@pytest.mark.parametrize("stage", ["running", "waiting", "tokenized"])
async def test_cancel_ends_a_request_wherever_it_is_and_frees_its_place(stage: str, reading: _Reading) -> None:
    gated = {"llms": [llm_replica(_GatedLlm)]}
    async with running_front(replicas=gated, max_active_requests=1, max_waiting_requests=1) as front:
        await _fill_up_to(stage, front, reading)
        call = front.stub.Generate(request(request_id="r"))
        await _until_at(stage, front, reading)
        assert (await front.stub.Cancel(pb.CancelRequest(request_id="r"))).cancelled
        ended = await asyncio.wait_for(status(call), PATIENCE_S)
        assert (ended.code(), ended.details()) == (CODE.CANCELLED, "request 'r' was cancelled")
        assert not (await front.stub.Cancel(pb.CancelRequest(request_id="r"))).cancelled
        gate_of(front).set()
        await until(lambda: front.cluster.is_empty, PATIENCE_S)


async def test_calls_beyond_all_places_are_refused_unread_and_counted() -> None:
    gated = {"llms": [llm_replica(_GatedLlm)]}
    async with running_front(replicas=gated, max_active_requests=1, max_waiting_requests=1) as front:
        placed = [front.stub.Generate(request("w1")) for _ in range(2)]
        await until(lambda: front.cluster.driver.admission.num_waiting == 1, PATIENCE_S)
        refused = await status(front.stub.Generate(request("w1")))
        assert (refused.code(), front.lifecycle.num_calls_refused) == (CODE.RESOURCE_EXHAUSTED, 0)
        unsent = [front.silent_call("Generate") for _ in range(MAX_READING)]
        await until(lambda: front.guard.num_active_calls == 2 + MAX_READING, PATIENCE_S)
        for _ in range(10):
            error = await status(front.stub.Generate(request("w1")))
            assert error.code() == CODE.RESOURCE_EXHAUSTED
            assert (error.details() or "").startswith("max_calls: ")
            told = rpc_status.from_call(error)
            assert told is not None
            assert told.details[0].Unpack(error_details_pb2.RetryInfo())
        assert front.lifecycle.num_calls_refused == 10
        for call in unsent:
            call.cancel()
        await until(lambda: front.guard.num_active_calls == 2, PATIENCE_S)
        load = (await front.stub.GetServerInfo(pb.OrchestratorServiceGetServerInfoRequest())).load
        assert load.num_requests_refused == 11
        for call in placed:
            call.cancel()


async def test_request_without_a_deadline_ends_after_the_default_one_and_frees_its_place() -> None:
    gated = {"llms": [llm_replica(_GatedLlm)]}
    async with running_front(replicas=gated, default_deadline_s=0.2, max_active_requests=1) as front:
        running, waiting = (front.stub.Generate(request()) for _ in range(2))
        for call in (running, waiting):
            error = await status(call)
            assert error.code() == CODE.DEADLINE_EXCEEDED
            assert (error.details() or "").startswith("default_deadline_s: ")
        await until(lambda: front.cluster.is_empty, PATIENCE_S)


@pytest.mark.parametrize("opens", [False, True])
async def test_first_message_tells_what_the_prompt_came_to_also_where_it_is_the_last(opens: bool) -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = "{{ messages[0].content }}{% if add_generation_prompt and open %}<think>{% endif %}"
    chat = pb.ChatMessages(
        messages=[pb.ChatMessage(role="user", content="w5")], template_kwargs_json='{"open": true}' if opens else ""
    )
    async with running_front(tokenizer=tokenizer) as front:
        for max_new_tokens, resume_from in ((8, 0), (1, 0), (1, 1)):
            asked = pb.GenerateRequest(
                chat=chat, max_new_tokens=max_new_tokens, threshold=2.0, request_id="r", resume_from=resume_from
            )
            responses = [response async for response in front.stub.Generate(asked)]
            assert responses[0].prompt == pb.PromptInfo(num_tokens=1, opens_reasoning=opens)
            assert not any(response.HasField("prompt") for response in responses[1:])
            assert responses[0].prompt.num_tokens == responses[-1].finish.usage.num_prompt_tokens


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (None, pb.ChatTemplate()),
        ("{{ messages }}{# tools, <think> #}", pb.ChatTemplate(exists=True)),
        ("{{ tools }}{{ messages }}", pb.ChatTemplate(exists=True, takes_tools=True)),
        ("{{ messages }}<think></think>", pb.ChatTemplate(exists=True, has_reasoning=True)),
    ],
)
async def test_server_info_tells_what_the_chat_template_can_do(
    template: str | None, expected: pb.ChatTemplate
) -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = template
    async with running_front(tokenizer=tokenizer) as front:
        info = await front.stub.GetServerInfo(pb.OrchestratorServiceGetServerInfoRequest())
    assert info.chat_template == expected


# --- whatever comes in


def random_text(draw: random.Random) -> str:
    alphabet = draw.choice(["w1 ", "\x00\x01\n", "漢é\u202e\U0001f600", "<|>end{}%"])
    return "".join(draw.choices(alphabet, k=draw.choice([0, 1, 3, 50, 2000])))


def random_float(draw: random.Random) -> float:
    return draw.choice([0.0, -0.0, 0.5, 1.0, 2.0, -1.0, 1e-30, 3e38, float("nan"), float("inf"), -float("inf")])


def random_json(draw: random.Random) -> str:
    """JSON that may be what is expected, something else, or damaged."""
    function = {"type": "function", "function": {"name": random_text(draw), "arguments": random_text(draw)}}
    value: Any = draw.choice([[function], [], {}, {"a": random_text(draw)}, {"messages": 1}, 7, random_float(draw)])
    text = json.dumps(value)
    return draw.choice([text, text, text, text[:-1], "[" * 2000, random_text(draw)])


def random_request(draw: random.Random) -> pb.GenerateRequest:
    """A request of the right shape, with values that nobody would send."""
    made = pb.GenerateRequest(max_new_tokens=draw.choice([0, 1, 3, 8, -(2**31)]))
    prompt = draw.choice(["text", "chat", "token_ids", "none"])
    if prompt == "text":
        made.text = random_text(draw)
    elif prompt == "chat":
        made.chat.SetInParent()
        for _ in range(draw.choice([0, 1, 3, 30])):
            message = made.chat.messages.add(
                role=draw.choice(["user", "assistant", "system", "developer", "tool", random_text(draw)]),
                content=random_text(draw),
            )
            for field in ("name", "reasoning_content", "tool_call_id"):
                if draw.random() < 0.1:
                    setattr(message, field, random_text(draw))
            if draw.random() < 0.1:
                message.tool_calls_json = random_json(draw)
        if draw.random() < 0.3:
            made.chat.tools_json = random_json(draw)
        if draw.random() < 0.3:
            made.chat.template_kwargs_json = random_json(draw)
        made.chat.continue_final_message = draw.random() < 0.2
    elif prompt == "token_ids":
        made.token_ids.token_ids.extend(draw.choices([0, 1, 127, 128, 2**32 - 1], k=draw.choice([0, 1, 5, 4000])))
    for name in ("threshold", "target_llm_usage", "target_avg_params_b"):
        if draw.random() < 0.3:
            setattr(made, name, random_float(draw))
    if draw.random() < 0.3:
        made.stop.extend(random_text(draw) for _ in range(draw.choice([1, 2, 20])))
    if draw.random() < 0.3:
        made.sampling.CopyFrom(
            common_pb2.SamplingParams(
                temperature=random_float(draw), top_k=draw.choice([0, 1, 2**32 - 1]), top_p=random_float(draw)
            )
        )
    if draw.random() < 0.3:
        made.request_id = draw.choice(["a", "b", random_text(draw)])
        made.resume_from = draw.choice([0, 1, 2**32 - 1])
    if draw.random() < 0.2:
        made.run_ahead_depth = draw.choice([0, 64, 65, 2**32 - 1])
    made.llm_loss_policy = draw.choice([0, 1, 2, 3, 77])  # type: ignore[assignment]
    return made


def random_message(draw: random.Random) -> bytes:
    """A request, a damaged one, or noise."""
    message = random_request(draw).SerializeToString()
    kind = draw.random()
    if kind < 0.5 or not message:
        return message
    if kind < 0.7:
        return message[: draw.randrange(len(message))]
    if kind < 0.85:
        damaged = bytearray(message)
        for _ in range(draw.choice([1, 3, 10])):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        return bytes(damaged)
    return draw.randbytes(draw.choice([1, 10, 1000]))


async def ended(front: Front, method: str, message: bytes) -> tuple[grpc.StatusCode, str]:
    call = front.call(method, message)
    try:
        async for _ in call:
            pass
    except grpc.aio.AioRpcError as error:
        return error.code(), error.details() or ""
    return CODE.OK, ""


EXPECTED = {CODE.OK, CODE.INVALID_ARGUMENT, CODE.OUT_OF_RANGE, CODE.FAILED_PRECONDITION, CODE.CANCELLED}


@pytest.mark.parametrize("seed", range(2))
async def test_whatever_comes_in_is_answered_in_order_and_costs_neither_a_traceback_nor_memory(
    seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    draw = random.Random(seed)
    process = psutil.Process()
    codes: dict[grpc.StatusCode, int] = {}
    tokenizer = make_tokenizer()
    tokenizer.chat_template = QWEN3 if seed else "{% for message in messages %}{{ message.content }}{% endfor %}"
    async with running_front(tokenizer=tokenizer) as front:
        grown_from = 0
        for batch in range(20):
            methods = draw.choices(["Generate", "Cancel", "GetServerInfo"], [18, 1, 1], k=50)
            messages = [(method, random_message(draw)) for method in methods]
            async with asyncio.timeout(PATIENCE_S):
                for code, details in await asyncio.gather(*(ended(front, *message) for message in messages)):
                    codes[code] = codes.get(code, 0) + 1
                    assert code in EXPECTED, details
                    assert details.isprintable()
            if batch == 4:
                grown_from = process.memory_info().rss
        await until(lambda: front.cluster.is_empty, PATIENCE_S)
        assert front.guard.num_active_calls == 0
        call = front.stub.Generate(request("w3", threshold=2.0))
        assert (await read(call)).token_ids
        call.cancel()
    assert process.memory_info().rss - grown_from < 64 * 2**20
    assert min(codes[CODE.OK], codes[CODE.INVALID_ARGUMENT]) > 50
    assert not [record for record in caplog.records if record.exc_info or record.levelno >= logging.ERROR]
