"""The frameworks that people build on, LangChain and LiteLLM: unmodified, they give the reference decoding."""

from __future__ import annotations

import asyncio
import functools
import operator
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import openai
import pytest

from evaluation.exactness import Reference
from evaluation.in_process import NEAR_TIE
from evaluation.reference.corpus.samples import MAX_NEW_TOKENS, draw_sample
from evaluation.reference.pair import LoadedPair
from tests.integration.gateway.answers import decoded
from tests.integration.gateway.door import MODEL, TIMEOUT_S, Gateway
from tests.integration.harness.completions import FIRST_HELD_OUT, NUM_PROMPTS

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(600),
    # LiteLLM silences it when it is imported, which lasts for one test.
    pytest.mark.filterwarnings("ignore:Accessing the 'model_:pydantic.PydanticDeprecatedSince211"),
]


@dataclass(frozen=True, slots=True)
class Known:
    """A question, and what the reference decoding answers to it at the pair's own threshold."""

    question: str
    prompt: str
    reasoning: str
    content: str
    num_prompt_tokens: int
    num_tokens: int

    @property
    def text(self) -> str:
        return f"<think>{self.reasoning}</think>{self.content}"

    @property
    def messages(self) -> Any:
        return [{"role": "user", "content": self.question}]


@pytest.fixture(scope="module")
def known(references: list[Reference], reference_pair: LoadedPair) -> list[Known]:
    """All that no near-tie decides: a framework gives text alone, and shows no position."""
    found = []
    for index, reference in enumerate(references[NUM_PROMPTS : 2 * NUM_PROMPTS]):
        if min(token.margin for token in reference.completion) < NEAR_TIE:
            continue
        text = decoded([token.token_id for token in reference.completion], reference_pair)
        reasoning, tag, content = text.removeprefix("<think>").partition("</think>")
        assert tag
        found.append(
            Known(
                question=draw_sample(FIRST_HELD_OUT + index).query,
                prompt=str(reference_pair.tokenizer.decode(list(reference.prompt_token_ids))),
                reasoning=reasoning,
                content=content,
                num_prompt_tokens=len(reference.prompt_token_ids),
                num_tokens=len(reference.completion),
            )
        )
    assert len(found) > NUM_PROMPTS // 2
    return found


# --- LangChain


@pytest.fixture(scope="module")
def langchain() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LANGSMITH_TRACING", "false")
        import langchain_openai

        yield langchain_openai


def chat_of(langchain: Any, door: Gateway, **options: Any) -> Any:
    return langchain.ChatOpenAI(
        base_url=f"{door.url}/v1", api_key="none", model=MODEL, temperature=0, max_tokens=MAX_NEW_TOKENS,
        stream_usage=True, max_retries=0, timeout=TIMEOUT_S, **options,
    )  # fmt: skip


def text_of(langchain: Any, door: Gateway, **options: Any) -> Any:
    return langchain.OpenAI(
        base_url=f"{door.url}/v1", api_key="none", model=MODEL, temperature=0, max_tokens=MAX_NEW_TOKENS,
        max_retries=0, timeout=TIMEOUT_S, **options,
    )  # fmt: skip


def assert_message(message: Any, known: Known) -> None:
    assert message.content == known.content
    assert message.response_metadata["finish_reason"] == "stop"
    usage = message.usage_metadata
    assert (usage["input_tokens"], usage["output_tokens"]) == (known.num_prompt_tokens, known.num_tokens)
    assert usage["total_tokens"] == known.num_prompt_tokens + known.num_tokens


def test_langchain_chat_invokes_and_streams_the_reference(langchain: Any, door: Gateway, known: list[Known]) -> None:
    chat = chat_of(langchain, door)
    for each in known:
        assert_message(chat.invoke(each.question), each)
        chunks = list(chat.stream(each.question))
        assert len(chunks) > 5
        assert_message(functools.reduce(operator.add, chunks), each)


async def test_langchain_chat_does_the_same_in_asyncio(langchain: Any, door: Gateway, known: list[Known]) -> None:
    async with httpx.AsyncClient() as http:
        chat = chat_of(langchain, door, http_async_client=http)
        messages = await asyncio.gather(*(chat.ainvoke(each.question) for each in known))
        for each, message in zip(known, messages, strict=True):
            assert_message(message, each)
            chunks = [chunk async for chunk in chat.astream(each.question)]
            assert_message(functools.reduce(operator.add, chunks), each)


def test_langchain_chat_answers_a_batch_in_its_order(langchain: Any, door: Gateway, known: list[Known]) -> None:
    messages = chat_of(langchain, door).batch([each.question for each in known])
    for each, message in zip(known, messages, strict=True):
        assert_message(message, each)


def test_langchain_chat_routes_and_keeps_reasoning_through_the_extra_body(
    langchain: Any, door: Gateway, known: list[Known]
) -> None:
    whole = chat_of(langchain, door, extra_body={"separate_reasoning": False}).invoke(known[0].question)
    assert whole.content == known[0].text
    slm_alone = chat_of(langchain, door, extra_body={"threshold": 2}).invoke(known[0].question)
    assert slm_alone.response_metadata["token_usage"]["llm_usage_rate"] == 0


async def test_langchain_completes_plain_prompts(langchain: Any, door: Gateway, known: list[Known]) -> None:
    text = text_of(langchain, door)
    prompts, texts = [each.prompt for each in known], [each.text for each in known]
    assert [text.invoke(prompt) for prompt in prompts] == texts
    assert ["".join(text.stream(prompt)) for prompt in prompts] == texts
    assert text.batch(prompts) == texts
    async with httpx.AsyncClient() as http:
        text = text_of(langchain, door, http_async_client=http)
        assert await asyncio.gather(*(text.ainvoke(prompt) for prompt in prompts)) == texts
    usage = text.generate(prompts).llm_output["token_usage"]
    assert usage["prompt_tokens"] == sum(each.num_prompt_tokens for each in known)
    assert usage["completion_tokens"] == sum(each.num_tokens for each in known)


def test_langchain_tells_what_is_refused(langchain: Any, door: Gateway) -> None:
    with pytest.raises(openai.BadRequestError, match="logprobs: not served") as error:
        chat_of(langchain, door, logprobs=True).invoke("Well?")
    assert error.value.param == "logprobs"


# --- LiteLLM


@pytest.fixture(scope="module")
def litellm() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        # It neither asks for price lists nor reads a .env of whoever runs the tests.
        patch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
        patch.setenv("LITELLM_MODE", "PRODUCTION")
        import litellm

        patch.setattr(litellm, "telemetry", False)
        yield litellm


def call(door: Gateway, provider: str = "openai", **options: Any) -> dict[str, Any]:
    """What all of its functions take."""
    address = {"model": f"{provider}/{MODEL}", "api_base": f"{door.url}/v1", "api_key": "none"}
    limits = {"max_tokens": MAX_NEW_TOKENS, "max_retries": 0, "timeout": TIMEOUT_S}
    return address | limits | {"temperature": 0} | options


STREAM: Any = {"stream": True, "stream_options": {"include_usage": True}}


def assert_usage(usage: Any, known: Known) -> None:
    assert (usage.prompt_tokens, usage.completion_tokens) == (known.num_prompt_tokens, known.num_tokens)


def assert_answer(answer: Any, known: Known) -> None:
    [choice] = answer.choices
    assert (choice.message.reasoning_content, choice.message.content) == (known.reasoning, known.content)
    assert choice.finish_reason == "stop"
    assert_usage(answer.usage, known)


def assert_chunks(chunks: list[Any], known: Known) -> None:
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    assert "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas) == known.reasoning
    assert "".join(delta.content or "" for delta in deltas) == known.content
    assert_usage(chunks[-1].usage, known)


def test_litellm_completes_and_streams_the_reference(litellm: Any, door: Gateway, known: list[Known]) -> None:
    for each in known:
        assert_answer(litellm.completion(**call(door, messages=each.messages)), each)
        assert_chunks(list(litellm.completion(**call(door, messages=each.messages, **STREAM))), each)


async def test_litellm_does_the_same_in_asyncio(
    litellm: Any, door: Gateway, known: list[Known], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with httpx.AsyncClient() as http:
        monkeypatch.setattr(litellm, "aclient_session", http)
        asked = (litellm.acompletion(**call(door, messages=each.messages)) for each in known)
        for each, answer in zip(known, await asyncio.gather(*asked), strict=True):
            assert_answer(answer, each)
            stream = await litellm.acompletion(**call(door, messages=each.messages, **STREAM))
            assert_chunks([chunk async for chunk in stream], each)


def test_litellm_routes_through_the_extra_body(litellm: Any, door: Gateway, known: list[Known]) -> None:
    asked = call(door, messages=known[0].messages, extra_body={"threshold": 0})
    assert litellm.completion(**asked).usage.llm_usage_rate == 1


def test_litellm_completes_plain_prompts(litellm: Any, door: Gateway, known: list[Known]) -> None:
    for each in known:
        asked = call(door, "text-completion-openai", prompt=each.prompt)
        answer = litellm.text_completion(**asked)
        assert answer.choices[0].text == each.text
        assert_usage(answer.usage, each)
        chunks = litellm.text_completion(**asked, stream=True)
        assert "".join(chunk.choices[0].text or "" for chunk in chunks) == each.text


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"temperature": 9}, "temperature: input should be less than or equal to 2"),
        ({"extra_body": {"logprobs": True}}, "logprobs: not served"),
        ({"messages": [{"role": "user", "content": "apple " * 1200}]}, "messages: "),
    ],
)
def test_litellm_tells_what_is_refused(
    litellm: Any, door: Gateway, known: list[Known], fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(litellm.BadRequestError, match=message):
        litellm.completion(**call(door, messages=known[0].messages) | fields)


def test_litellm_knows_a_model_that_is_not_there(litellm: Any, door: Gateway, known: list[Known]) -> None:
    with pytest.raises(litellm.NotFoundError, match="there is no 'other'"):
        litellm.completion(**call(door, messages=known[0].messages) | {"model": "openai/other"})
