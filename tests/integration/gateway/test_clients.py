"""The clients that people point at it: openai in its forms, and curl."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from typing import Any

import openai
import pytest

from tests.integration.gateway.door import MODEL, TIMEOUT_S, Gateway

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

QUESTION: Any = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "Tom starts with 14 apples. He wins 8 apples. How many apples has he?"}],
    "temperature": 0,
    "max_tokens": 300,
}


def options(door: Gateway) -> Any:
    return {"base_url": f"{door.url}/v1", "api_key": "none", "max_retries": 0, "timeout": TIMEOUT_S}


@pytest.fixture(scope="module")
def answer(door: Gateway) -> str:
    with openai.OpenAI(**options(door)) as client:
        content = client.chat.completions.create(**QUESTION).choices[0].message.content
    assert "The answer is" in content
    return str(content)


def test_sync_client_streams_the_answer(door: Gateway, answer: str) -> None:
    with openai.OpenAI(**options(door)) as client:
        chunks = list(client.chat.completions.create(**QUESTION, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == answer
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens > 20
    assert "llm_usage_rate" in (chunks[-1].usage.model_extra or {})


async def test_async_client_asks_many_at_once(door: Gateway, answer: str) -> None:
    async with openai.AsyncOpenAI(**options(door)) as client:
        answers = await asyncio.gather(*(client.chat.completions.create(**QUESTION) for _ in range(8)))
    assert {each.choices[0].message.content for each in answers} == {answer}


async def test_stream_helper_gathers_the_answer(door: Gateway, answer: str) -> None:
    async with (
        openai.AsyncOpenAI(**options(door)) as client,
        client.chat.completions.stream(**QUESTION) as stream,
    ):
        events = [event.type async for event in stream]
        final = await stream.get_final_completion()
    assert final.choices[0].message.content == answer
    assert {"chunk", "content.delta", "content.done"} <= set(events)


def test_completions_and_models_are_served(door: Gateway) -> None:
    with openai.OpenAI(**options(door)) as client:
        completion = client.completions.create(model=MODEL, prompt="The answer", temperature=0, max_tokens=1)
        assert completion.choices[0].text == " is"
        assert [model.id for model in client.models.list()] == [MODEL]
        assert client.models.retrieve(MODEL).owned_by == "trivium"


def test_routing_goes_through_the_extra_body_and_headers(door: Gateway) -> None:
    with openai.OpenAI(**options(door)) as client:
        extra = {"threshold": 0, "include_token_sources": True}
        completion = client.chat.completions.create(**QUESTION, extra_body=extra)
        assert completion.usage.model_extra["llm_usage_rate"] == 1
        assert {token["source"] for token in completion.choices[0].model_extra["tokens"]} == {"llm"}
        completion = client.chat.completions.create(**QUESTION, extra_headers={"X-Trivium-Threshold": "2"})
        assert completion.usage.model_extra["llm_usage_rate"] == 0


def test_errors_are_those_of_the_client(door: Gateway) -> None:
    with openai.OpenAI(**options(door)) as client:
        with pytest.raises(openai.BadRequestError) as bad:
            client.chat.completions.create(**QUESTION | {"temperature": 9})
        assert bad.value.param == "temperature"
        with pytest.raises(openai.NotFoundError) as missing:
            client.chat.completions.create(**QUESTION | {"model": "gpt-5"})
        assert missing.value.code == "model_not_found"


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
def test_curl_reads_an_answer_and_a_stream(door: Gateway, answer: str) -> None:
    def curl(body: Any, *flags: str) -> str:
        command = ["curl", "-sN", *flags, f"{door.url}/v1/chat/completions", "-H", "Content-Type: application/json"]
        return subprocess.run([*command, "-d", json.dumps(body)], capture_output=True, text=True, check=True).stdout

    assert json.loads(curl(QUESTION))["choices"][0]["message"]["content"] == answer
    stream = curl(QUESTION | {"stream": True}, "-i")
    assert stream.startswith("HTTP/1.1 200")
    assert stream.endswith("data: [DONE]\n\n")
