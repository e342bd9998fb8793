"""The gateway on a real socket, before a scripted orchestrator."""

import asyncio
import json
import logging
from typing import Any

import grpc
import httpx
import openai
import pytest
from trivium.v1 import orchestrator_pb2 as pb

from tests.serving import until
from tests.unit.gateway.scripted import (
    MODEL,
    QUESTION,
    RunningGateway,
    ScriptedOrchestrator,
    fails,
    messages,
    says,
    serving,
    waits,
)

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
CODE = grpc.StatusCode
THOUGHT = "<think>\nhm\n</think>\n\nYes."
CALL = 'On it.\n<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
TOOLS = [{"type": "function", "function": {"name": "add"}}]


async def events(response: httpx.Response) -> list[Any]:
    """The data of all events but the last, which has to be [DONE]."""
    found = [line.removeprefix("data: ") async for line in response.aiter_lines() if line.startswith("data: ")]
    assert found.pop() == "[DONE]"
    assert "[DONE]" not in found
    return [json.loads(each) for each in found]


async def streamed(running: RunningGateway, path: str = CHAT, **fields: Any) -> list[Any]:
    async with running.http.stream("POST", path, json={"stream": True} | fields) as response:
        assert response.status_code == 200
        return await events(response)


async def asked(running: RunningGateway, path: str = CHAT, **fields: Any) -> Any:
    response = await running.http.post(path, json=fields)
    assert response.status_code == 200, response.text
    return response.json()


def orchestrator(script: Any = None, **options: Any) -> ScriptedOrchestrator:
    return ScriptedOrchestrator(script or says("Hello, world."), **options)


def assert_error(response: httpx.Response, status: int, param: str | None = None) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    [(key, error)] = response.json().items()
    assert key == "error"
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert error["param"] == param
    return dict(error)


# --- shapes


async def test_answer_has_its_message_and_usage() -> None:
    async with serving() as running:
        answer = await asked(running, **QUESTION)
    assert answer["object"] == "chat.completion"
    assert answer["model"] == MODEL
    [choice] = answer["choices"]
    assert choice["message"] == {"role": "assistant", "content": "Hello, world.", "refusal": None}
    assert choice["finish_reason"] == "stop"
    assert answer["usage"] == {
        "prompt_tokens": 7,
        "completion_tokens": 13,
        "total_tokens": 20,
        "llm_tokens": 5,
        "llm_usage_rate": 0.384615,
        "avg_activated_params_b": 2.0,
        "threshold": 0.5,
        "rule": "router:threshold=0.5",
        "rule_version": "1",
        "prompt_tokens_details": {"cached_tokens": 4},
    }


async def test_stream_has_role_first_text_then_reason_and_nothing_else() -> None:
    async with serving() as running:
        chunks = await streamed(running, **QUESTION)
    assert {(chunk["id"], chunk["created"], chunk["model"], chunk["object"]) for chunk in chunks} == {
        (chunks[0]["id"], chunks[0]["created"], MODEL, "chat.completion.chunk")
    }
    assert all("usage" not in chunk for chunk in chunks)
    first, *between, last = [chunk["choices"][0] for chunk in chunks]
    assert first["delta"] == {"role": "assistant", "content": ""}
    assert "".join(choice["delta"]["content"] for choice in between) == "Hello, world."
    assert all(choice["finish_reason"] is None for choice in (first, *between))
    assert (last["delta"], last["finish_reason"]) == ({}, "stop")


async def test_stream_of_plain_text_has_text() -> None:
    async with serving() as running:
        chunks = await streamed(running, TEXT, prompt="Say: ", echo=True)
        whole = await asked(running, TEXT, prompt="Say: ", echo=True)
    texts = [chunk["choices"][0]["text"] for chunk in chunks]
    assert "".join(texts) == whole["choices"][0]["text"] == "Say: Hello, world."
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks][-1] == "stop"
    assert {chunk["object"] for chunk in chunks} == {whole["object"]} == {"text_completion"}


async def test_usage_in_a_stream_comes_once_at_the_end_where_it_was_asked_for() -> None:
    async with serving() as running:
        chunks = await streamed(running, **QUESTION, stream_options={"include_usage": True})
        whole = await asked(running, **QUESTION)
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"] == whole["usage"]
    assert all(chunk["usage"] is None for chunk in chunks[:-1])


async def test_running_totals_end_with_the_whole() -> None:
    async with serving() as running:
        options = {"include_usage": True, "continuous_usage_stats": True}
        chunks = await streamed(running, **QUESTION, stream_options=options)
    totals = [chunk["usage"]["completion_tokens"] for chunk in chunks]
    assert totals == sorted(totals)
    assert chunks[-1]["usage"]["completion_tokens"] == chunks[-2]["usage"]["completion_tokens"] == 13
    assert {chunk["usage"]["prompt_tokens"] for chunk in chunks[1:]} == {7}


async def test_choices_have_their_places_and_the_prompt_counts_once() -> None:
    async with serving() as running:
        answer = await asked(running, **QUESTION, n=3)
        chunks = await streamed(running, **QUESTION, n=3)
        batch = await asked(running, TEXT, prompt=["a", "b"], n=2)
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    assert (answer["usage"]["prompt_tokens"], answer["usage"]["completion_tokens"]) == (7, 39)
    assert [choice["index"] for choice in batch["choices"]] == [0, 1, 2, 3]
    assert (batch["usage"]["prompt_tokens"], batch["usage"]["completion_tokens"]) == (14, 52)
    for index in range(3):
        own = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == index]
        assert own[0]["delta"]["role"] == "assistant"
        assert own[-1]["finish_reason"] == "stop"
        assert "".join(choice["delta"].get("content", "") for choice in own) == "Hello, world."


async def test_tokens_with_their_authors_come_where_they_were_asked_for() -> None:
    async with serving() as running:
        answer = await asked(running, **QUESTION, include_token_sources=True)
        chunks = await streamed(running, **QUESTION, include_token_sources=True)
    tokens = answer["choices"][0]["tokens"]
    assert "".join(token["text"] for token in tokens) == "Hello, world."
    assert {token["source"] for token in tokens} == {"slm", "llm"}
    assert [token for chunk in chunks for token in chunk["choices"][0].get("tokens", [])] == tokens


# --- reasoning and tools


@pytest.mark.parametrize(
    ("text", "opens", "reasoning", "content"),
    [(THOUGHT, False, "\nhm\n", "\n\nYes."), ("hm</think>Yes.", True, "hm", "Yes."), ("Yes.", False, None, "Yes.")],
)
async def test_reasoning_is_split_off(text: str, opens: bool, reasoning: str | None, content: str) -> None:
    async with serving(orchestrator(says(text, opens=opens))) as running:
        answer = await asked(running, **QUESTION)
        deltas = [chunk["choices"][0]["delta"] for chunk in await streamed(running, **QUESTION)]
    message = answer["choices"][0]["message"]
    assert (message.get("reasoning_content"), message["content"]) == (reasoning, content)
    assert "".join(delta.get("reasoning_content", "") for delta in deltas) == (reasoning or "")
    assert "".join(delta.get("content", "") for delta in deltas) == content


@pytest.mark.parametrize("way", ["request", "setting", "template"])
async def test_reasoning_stays_in_the_text_where_it_is_not_to_be_split(way: str) -> None:
    asks = orchestrator(says(THOUGHT), has_reasoning=way != "template")
    async with serving(asks, split_reasoning=way != "setting") as running:
        answer = await asked(running, **QUESTION, separate_reasoning=way != "request")
    assert answer["choices"][0]["message"]["content"] == THOUGHT


async def test_tool_is_called() -> None:
    async with serving(orchestrator(says(CALL))) as running:
        [choice] = (await asked(running, **QUESTION, tools=TOOLS))["choices"]
        chunks = await streamed(running, **QUESTION, tools=TOOLS)
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] == "On it."
    [call] = choice["message"]["tool_calls"]
    assert call["function"] == {"name": "add", "arguments": '{"a": 1}'}
    [delta] = [call for chunk in chunks for call in chunk["choices"][0]["delta"].get("tool_calls", [])]
    assert (delta["index"], delta["type"], delta["function"]) == (0, "function", call["function"])
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


async def test_call_is_text_where_no_tool_may_be_called() -> None:
    async with serving(orchestrator(says(CALL))) as running:
        answer = await asked(running, **QUESTION, tools=TOOLS, tool_choice="none")
    assert answer["choices"][0]["message"]["content"] == CALL


# --- failures


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("code", "status"),
    [(CODE.INVALID_ARGUMENT, 400), (CODE.RESOURCE_EXHAUSTED, 429), (CODE.UNAVAILABLE, 503), (CODE.INTERNAL, 500)],
)
async def test_failure_before_the_first_token_has_its_status(
    code: grpc.StatusCode, status: int, stream: bool
) -> None:
    async with serving(orchestrator(fails(code, "full of it"))) as running:
        response = await running.http.post(CHAT, json=QUESTION | {"stream": stream})
    assert_error(response, status)
    assert ("Retry-After" in response.headers) == (status in (429, 503))


async def test_one_bad_prompt_refuses_all_of_them() -> None:
    async def script(request: pb.GenerateRequest) -> Any:
        if request.text == "bad":
            await asyncio.sleep(0.05)
            async for response in fails(CODE.INVALID_ARGUMENT, "text: bad")(request):
                yield response
        async for response in says("good")(request):
            yield response

    for stream in (False, True):
        async with serving(orchestrator(script)) as running:
            response = await running.http.post(TEXT, json={"prompt": ["ok", "bad"], "stream": stream})
            assert_error(response, 400, "prompt[1]")
            assert running.orchestrator.num_running == 0


async def test_failure_after_the_first_token_is_an_event_and_then_the_end() -> None:
    script = fails(CODE.UNAVAILABLE, "gone", after=messages("Hello, ")[:1])
    async with serving(orchestrator(script)) as running:
        chunks = await streamed(running, **QUESTION)
        whole = await running.http.post(CHAT, json=QUESTION)
    assert chunks[-1]["error"]["message"] == "gone"
    assert chunks[-2]["choices"][0]["delta"]["content"] == "Hel"
    assert_error(whole, 503)


async def test_defect_is_told_of_without_what_was_sent(caplog: pytest.LogCaptureFixture) -> None:
    async def script(request: pb.GenerateRequest) -> Any:
        raise RuntimeError("secret")
        yield pb.GenerateResponse()

    with caplog.at_level(logging.DEBUG):
        async with serving(orchestrator(script)) as running:
            error = assert_error(await running.http.post(CHAT, json=QUESTION), 500)
    assert error["message"] == "internal error"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nope", 404), ("POST", "/v1/embeddings", 404), ("GET", CHAT, 405), ("DELETE", "/v1/models", 405),
        ("GET", "/v1/models/nope", 404), ("GET", "/v1/models/", 404), ("PUT", "/health", 405), ("OPTIONS", CHAT, 405),
    ],
)  # fmt: skip
async def test_path_or_method_that_is_none_has_the_shape_of_errors(method: str, path: str, status: int) -> None:
    async with serving() as running:
        response = await running.http.request(method, path)
    assert_error(response, status, "model" if path.startswith("/v1/models/") else None)


# --- models, health, metrics


async def test_model_is_listed_and_described() -> None:
    async with serving() as running:
        listed = (await running.http.get("/v1/models")).json()
        described = (await running.http.get(f"/v1/models/{MODEL}")).json()
    assert listed == {"object": "list", "data": [described]}
    assert described["object"] == "model"
    assert described["owned_by"]
    assert isinstance(described["created"], int)


async def test_unknown_model_is_not_found() -> None:
    async with serving() as running:
        for response in (
            await running.http.post(CHAT, json=QUESTION | {"model": "gpt-5"}),
            await running.http.get("/v1/models/gpt-5"),
        ):
            assert assert_error(response, 404, "model")["code"] == "model_not_found"
        assert (await asked(running, **QUESTION, model=MODEL))["model"] == MODEL


async def test_nothing_is_served_before_an_orchestrator_has_answered() -> None:
    async with serving(orchestrator(is_away=True)) as running:
        for response in (
            await running.http.get("/health"),
            await running.http.get("/v1/models"),
            await running.http.post(CHAT, json=QUESTION),
        ):
            assert "10.0.0.1" not in assert_error(response, 503)["message"]
        assert (await running.http.get("/live")).status_code == 200
        running.orchestrator.is_away = False
        await asked(running, **QUESTION)
        assert (await running.http.get("/health")).json() == {"status": "ok", "model": MODEL}


async def test_closing_gateway_sends_callers_away_with_their_answer_and_ends_what_runs() -> None:
    async with serving(orchestrator(waits(0.3, before=messages("Hello, ")[:1]))) as running:
        await asked(running, **QUESTION)
        stream = asyncio.create_task(streamed(running, **QUESTION))
        await until(lambda: running.orchestrator.num_running)
        running.gateway.door.is_closing = True
        answered = await running.http.post(CHAT, json=QUESTION)
        assert (answered.status_code, answered.headers["connection"]) == (200, "close")
        assert_error(await running.http.get("/health"), 503)
        assert (await stream)[-1]["choices"][0]["finish_reason"] == "stop"
        await asyncio.wait_for(running.gateway.door.idle.wait(), 5)


async def test_metrics_count_requests_tokens_and_first_tokens() -> None:
    async with serving() as running:
        await asked(running, **QUESTION)
        await running.http.get("/nope")
        response = await running.http.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    for line in (
        'trivium_gateway_responses_total{status="200"} 1.0',
        'trivium_gateway_responses_total{status="404"} 1.0',
        'trivium_gateway_tokens_total{author="llm"} 5.0',
        "trivium_gateway_first_token_seconds_count 1.0",
    ):
        assert line in response.text


# --- HTTP


async def test_request_id_is_taken_and_given_back() -> None:
    async with serving() as running:
        given = await running.http.post(CHAT, json=QUESTION, headers={"X-Request-Id": "mine-1"})
        chosen = await running.http.get("/nope")
        odd = await running.http.get("/nope", headers={"X-Request-Id": "x" * 200})
    assert given.headers["x-request-id"] == "mine-1"
    assert len(chosen.headers["x-request-id"]) == len(odd.headers["x-request-id"]) == 32


async def test_stream_is_not_to_be_collected_by_proxies() -> None:
    async with serving() as running:
        response = await running.http.post(CHAT, json=QUESTION | {"stream": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-accel-buffering"] == "no"


@pytest.mark.parametrize("origins", [(), ("https://page.example",)])
async def test_pages_of_other_origins_may_call_only_where_that_is_set(origins: tuple[str, ...]) -> None:
    headers = {"Origin": "https://page.example", "Access-Control-Request-Method": "POST"}
    async with serving(cors_origins=origins) as running:
        preflight = await running.http.options(CHAT, headers=headers)
        answer = await running.http.post(CHAT, json=QUESTION, headers=headers)
    allowed = "https://page.example" if origins else None
    assert answer.headers.get("access-control-allow-origin") == allowed
    assert (preflight.status_code == 200) == bool(origins)


@pytest.mark.parametrize("before", [[], messages("Hello, ")[:1]])
async def test_silence_before_and_after_the_first_token_is_filled(before: list[pb.GenerateResponse]) -> None:
    goes_on = asyncio.Event()

    async def script(request: pb.GenerateRequest) -> Any:
        for response in before:
            yield response
        await goes_on.wait()
        async for response in says("late")(request):
            yield response

    async with (
        serving(orchestrator(script), keep_alive_s=0.1) as running,
        running.http.stream("POST", CHAT, json=QUESTION | {"stream": True}) as response,
    ):
        num_comments = 0
        async for line in response.aiter_lines():
            num_comments += line == ": keep-alive"
            if num_comments == 2:
                goes_on.set()
    assert line == ""
    assert num_comments >= 2


async def test_failure_after_the_first_comment_is_an_event() -> None:
    async def script(request: pb.GenerateRequest) -> Any:
        await asyncio.sleep(0.2)
        async for response in fails(CODE.UNAVAILABLE, "gone")(request):
            yield response

    async with serving(orchestrator(script), keep_alive_s=0.05) as running:
        chunks = await streamed(running, **QUESTION)
    assert chunks[-1]["error"]["code"] == "unavailable"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("before", [[], messages("Hello, ")[:1]])
async def test_client_that_goes_away_ends_the_work_at_once(stream: bool, before: list[pb.GenerateResponse]) -> None:
    async with serving(orchestrator(waits(before=before))) as running:
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        body = json.dumps(QUESTION | {"stream": stream, "n": 3}).encode()
        writer.write(head(len(body)) + body)
        await until(lambda: running.orchestrator.num_running == 3)
        if stream and before:
            assert await reader.read(64)
        writer.close()
        await until(lambda: running.orchestrator.num_running == 0, 1.0)
        await until(lambda: running.gateway.counts.num_active == 0)
        assert running.gateway.counts.num_disconnects == 1


def head(num_bytes: int) -> bytes:
    lines = (f"POST {CHAT} HTTP/1.1", "Host: x", "Content-Type: application/json", f"Content-Length: {num_bytes}")
    return "\r\n".join([*lines, "", ""]).encode()


@pytest.mark.parametrize("split", [1, 3, 6, 13, 14])
async def test_stream_that_broke_goes_on_after_the_last_event(split: int) -> None:
    async with serving(orchestrator(says(THOUGHT))) as running:
        body = QUESTION | {"stream": True}
        response = await running.http.post(CHAT, json=body)
        pieces = [piece for piece in response.text.split("\n\n") if piece]
        num_read = min(split, len(pieces) - 1)
        ids = [piece.split("\n")[0].removeprefix("id: ") for piece in pieces[:num_read] if piece.startswith("id: ")]
        if not ids:
            return
        rest = await running.http.post(CHAT, json=body, headers={"Last-Event-ID": ids[-1]})
        resumed = running.orchestrator.requests[-1]
    joined = pieces[:num_read] + [piece for piece in rest.text.split("\n\n") if piece]
    assert [texts(piece) for piece in joined if any(texts(piece))] == [
        texts(piece) for piece in pieces if any(texts(piece))
    ]
    assert joined[-1] == "data: [DONE]"
    assert resumed.HasField("resume_from")
    assert resumed.request_id == running.orchestrator.requests[0].request_id
    assert resumed.sampling == running.orchestrator.requests[0].sampling


def texts(piece: str) -> tuple[str, str]:
    data = piece.rpartition("data: ")[2]
    choices = [] if data == "[DONE]" else json.loads(data)["choices"]
    delta = choices[0]["delta"] if choices else {}
    return delta.get("reasoning_content", ""), delta.get("content", "")


@pytest.mark.parametrize(
    ("event_id", "fields"),
    [("x", {"stream": True}), ("a:-1", {"stream": True}), ("a:1", {}), ("a:1", {"stream": True, "n": 2})],
)
async def test_event_id_that_cannot_be_gone_on_with_is_refused(event_id: str, fields: dict[str, Any]) -> None:
    async with serving() as running:
        response = await running.http.post(CHAT, json=QUESTION | fields, headers={"Last-Event-ID": event_id})
    assert_error(response, 400, "Last-Event-ID")


# --- clients


def openai_client(running: RunningGateway) -> Any:
    return openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{running.port}/v1", api_key="none", max_retries=0)


async def test_openai_client_reads_answers_streams_and_errors() -> None:
    async with serving(orchestrator(says(CALL))) as running, openai_client(running) as client:
        answer = await client.chat.completions.create(model=MODEL, tools=TOOLS, **QUESTION)
        assert answer.choices[0].message.tool_calls[0].function.name == "add"
        running.orchestrator.script = says(THOUGHT)
        async with client.chat.completions.stream(model=MODEL, **QUESTION) as stream:
            final = await stream.get_final_completion()
        assert final.choices[0].message.content == "\n\nYes."
        assert final.choices[0].finish_reason == "stop"
        with pytest.raises(openai.NotFoundError):
            await client.chat.completions.create(model="other", **QUESTION)
        with pytest.raises(openai.BadRequestError) as error:
            await client.chat.completions.create(model=MODEL, logprobs=True, **QUESTION)
        assert error.value.param == "logprobs"
        assert [model.id async for model in client.models.list()] == [MODEL]


async def test_openai_client_is_told_of_a_failure_in_the_middle() -> None:
    script = fails(CODE.UNAVAILABLE, "gone", after=messages("Hello, ")[:1])
    async with serving(orchestrator(script)) as running, openai_client(running) as client:
        stream = await client.chat.completions.create(model=MODEL, stream=True, **QUESTION)
        with pytest.raises(openai.APIError, match="gone"):
            async for _ in stream:
                pass
