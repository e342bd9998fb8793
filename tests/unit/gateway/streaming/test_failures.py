"""What a caller is told when an answer fails, before its first token and after it."""

import asyncio
import logging
from typing import Any

import grpc
import pytest
from trivium.v1 import orchestrator_pb2 as pb

from tests.unit.gateway.asking import CHAT, CODE, TEXT, assert_error, orchestrator, streamed
from tests.unit.gateway.scripted import QUESTION, fails, messages, says, serving


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


async def test_failure_after_the_first_comment_is_an_event() -> None:
    async def script(request: pb.GenerateRequest) -> Any:
        await asyncio.sleep(0.2)
        async for response in fails(CODE.UNAVAILABLE, "gone")(request):
            yield response

    async with serving(orchestrator(script), keep_alive_s=0.05) as running:
        chunks = await streamed(running, **QUESTION)
    assert chunks[-1]["error"]["code"] == "unavailable"
