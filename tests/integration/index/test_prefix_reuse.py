"""A chat's second turn runs only what is new through the models, whichever orchestrator it comes to."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from trivium.v1 import orchestrator_pb2

from evaluation.reference.pair import WEIGHTS_DIR
from labeler_jobs.models.huggingface import render_prompt
from services.common.text.tokenizer import load_tokenizer
from services.orchestrator.index.prefix_index import IndexedPair, PrefixIndex
from services.orchestrator.pair.check import check_pair
from tests.integration.harness.completions import client, generate, tell
from tests.integration.harness.indexes import started_index
from tests.integration.harness.pair import Replica, RunningPair, front_info, llm_info
from tests.serving import until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

BLOCK_LEN = 16
"""Tokens of a KV block, and of a block of the index: only whole ones are shared."""


@asynccontextmanager
async def shared_index(pair: RunningPair) -> AsyncIterator[PrefixIndex]:
    info = await front_info(pair.front)
    served = check_pair(
        info.slm, info.llm, info.router, tokenizer_sha256=info.slm.tokenizer_sha256, num_tokenizer_ids=1
    )
    indexed = IndexedPair(served.models_identity, served.vocab_size)
    async with started_index(pair.redis.url, pair=indexed, timeout_s=2) as index:
        yield index


def turn(*contents: str) -> orchestrator_pb2.GenerateRequest:
    """A conversation. The LLM writes all of the answer, so that it has to hold all of the prompt."""
    roles = ("user", "assistant")
    messages = [
        orchestrator_pb2.ChatMessage(role=roles[index % 2], content=content) for index, content in enumerate(contents)
    ]
    chat = orchestrator_pb2.ChatMessages(messages=messages)
    return orchestrator_pb2.GenerateRequest(chat=chat, threshold=0, max_new_tokens=1)


@pytest.mark.parametrize("second_front", ["front", "other_front"])
async def test_second_turn_prefills_only_what_is_new(
    pair: RunningPair,
    second_front: str,
) -> None:
    # A question that nobody has asked before, so that the first turn finds nothing.
    question = f"Case {uuid.uuid4().hex}: " + "Ann has 24 stones and buys 6 more on Monday. " * 6
    first = turn(question)
    first.max_new_tokens = 40
    async with client(pair.front) as stub:
        cold = await generate(stub, first)
    second = turn(question, cold.text, "And on Tuesday she sells 3. How many are left?")

    front: Replica = getattr(pair, second_front)
    elsewhere = await llm_info(pair.other_llm)
    async with shared_index(pair) as index, client(front) as stub:
        prompt = render_prompt(load_tokenizer(str(WEIGHTS_DIR / "slm")), question)

        async def is_known() -> bool:
            held = await index.lookup(prompt)
            return bool(held.slm and held.llm)

        # It is told when the stream has ended, but the stream doesn't wait for that.
        await until(is_known, timeout_s=10)
        warm = await generate(stub, second)

    num_shared = cold.usage.num_prompt_tokens - 2 * BLOCK_LEN
    for name, usage in (("cold", cold.usage), ("warm", warm.usage)):
        tell(
            f"{name}: prompt, prefilled by slm and llm",
            (usage.num_prompt_tokens, usage.num_slm_tokens_prefilled, usage.num_llm_tokens_prefilled),
        )
    assert cold.usage.num_llm_tokens_reused <= BLOCK_LEN
    assert cold.usage.num_llm_tokens_prefilled >= cold.usage.num_prompt_tokens - BLOCK_LEN
    for reused, prefilled in (
        (warm.usage.num_slm_tokens_reused, warm.usage.num_slm_tokens_prefilled),
        (warm.usage.num_llm_tokens_reused, warm.usage.num_llm_tokens_prefilled),
    ):
        assert reused >= num_shared
        assert prefilled == warm.usage.num_prompt_tokens - reused
    # Where nothing is known of a prompt, chance might have chosen the other LLM.
    assert (await llm_info(pair.other_llm)).load.num_tokens_processed == elsewhere.load.num_tokens_processed
