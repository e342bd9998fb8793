"""What goes through HTTP is the reference decoding, token for token, streamed and not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from evaluation.exactness import Reference
from evaluation.reference.corpus.samples import draw_sample
from evaluation.reference.pair import LoadedPair
from tests.integration.gateway.answers import assert_answer, decoded, fields
from tests.integration.gateway.door import TIMEOUT_S, Gateway, ask
from tests.integration.harness.completions import FIRST_HELD_OUT, NUM_PROMPTS

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]


@pytest.fixture
async def http(door: Gateway) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=door.url, timeout=TIMEOUT_S) as client:
        yield client


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
