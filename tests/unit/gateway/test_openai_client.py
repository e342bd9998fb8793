"""OpenAI's own client before a scripted orchestrator."""

from typing import Any

import openai
import pytest

from tests.unit.gateway.asking import CALL, CODE, THOUGHT, TOOLS, orchestrator
from tests.unit.gateway.scripted import MODEL, QUESTION, RunningGateway, fails, messages, says, serving


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
