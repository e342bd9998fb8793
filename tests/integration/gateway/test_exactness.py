"""What goes through HTTP is the reference decoding, token for token, streamed and not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from trivium.v1 import orchestrator_pb2

from evaluation.exactness import Reference
from evaluation.reference.corpus.samples import MAX_NEW_TOKENS, draw_sample
from evaluation.reference.pair import LoadedPair
from tests.integration.gateway.door import TIMEOUT_S, Answer, Gateway, ask
from tests.integration.harness.completions import FIRST_HELD_OUT, NUM_PROMPTS, Completion, assert_is_reference

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]


@pytest.fixture
async def http(door: Gateway) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=door.url, timeout=TIMEOUT_S) as client:
        yield client


def fields(reference: Reference) -> dict[str, Any]:
    return {
        "temperature": 0,
        "threshold": reference.threshold,
        "max_tokens": MAX_NEW_TOKENS,
        "include_token_sources": True,
    }


def assert_answer(answer: Answer, reference: Reference, pair: LoadedPair) -> None:
    assert answer.status == 200, answer.error
    said = answer.choices[0]
    completion = Completion(
        token_ids=[token["id"] for token in said.tokens],
        from_llm=[token["source"] == "llm" for token in said.tokens],
        finish=orchestrator_pb2.Finish(),
    )
    assert_is_reference(completion, reference)
    assert "".join(token["text"] for token in said.tokens) == decoded(completion.token_ids, pair)
    assert answer.usage["completion_tokens"] == len(completion.token_ids)
    assert answer.usage["prompt_tokens"] == len(reference.prompt_token_ids)


def decoded(token_ids: list[int], pair: LoadedPair) -> str:
    return str(pair.tokenizer.decode(token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_answers_to_token_ids_are_the_references(
    http: httpx.AsyncClient, references: list[Reference], reference_pair: LoadedPair, stream: bool
) -> None:
    for reference in references:
        body = {"prompt": list(reference.prompt_token_ids)} | fields(reference)
        answer = await ask(http, "text", body, stream=stream)
        assert_answer(answer, reference, reference_pair)
        assert answer.texts[0] == decoded([token["id"] for token in answer.choices[0].tokens], reference_pair)


def question(index: int) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": draw_sample(FIRST_HELD_OUT + index).query}]}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_answers_to_chats_are_the_references_with_their_reasoning_split(
    http: httpx.AsyncClient, references: list[Reference], reference_pair: LoadedPair, stream: bool
) -> None:
    for index, reference in enumerate(references):
        body = question(index % NUM_PROMPTS) | fields(reference)
        answer = await ask(http, "chat", body, stream=stream)
        assert_answer(answer, reference, reference_pair)
        said = answer.choices[0]
        assert said.reasoning
        text = "".join(token["text"] for token in said.tokens)
        assert text in (f"<think>{said.reasoning}</think>{said.text}", f"<think>{said.reasoning}")
