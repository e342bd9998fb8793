"""Requests that name a budget instead of a threshold, on a running pair."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path
from typing import Any

import grpc
import pytest
from trivium.v1 import orchestrator_pb2

from evaluation.reference.corpus.samples import MAX_NEW_TOKENS, draw_sample
from evaluation.reference.pair import WEIGHTS_DIR
from router_service.checkpoint import RouterCheckpoint, load_checkpoint, save_checkpoint
from tests.integration.harness.completions import FIRST_HELD_OUT, Completion, client, generate, status_of, tell
from tests.integration.harness.pair import Replica, RunningPair, front_info, running

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

pb = orchestrator_pb2
NUM_QUERIES = 24


def request(index: int, **routing: Any) -> pb.GenerateRequest:
    message = pb.ChatMessage(role="user", content=draw_sample(FIRST_HELD_OUT + 1000 + index).query)
    return pb.GenerateRequest(
        chat=pb.ChatMessages(messages=[message]),
        max_new_tokens=MAX_NEW_TOKENS,
        **routing,
    )


async def answers(pair: RunningPair, **routing: float) -> list[Completion]:
    async with client(pair.front) as stub:
        return await asyncio.gather(*(generate(stub, request(index, **routing)) for index in range(NUM_QUERIES)))


def usage_of(completions: list[Completion]) -> float:
    num_llm = sum(completion.usage.num_llm_tokens for completion in completions)
    return num_llm / sum(completion.usage.num_completion_tokens for completion in completions)


@pytest.mark.parametrize("target", [0.05, 0.1, 0.2])
async def test_target_llm_usage_is_met_on_average_over_queries(pair: RunningPair, target: float) -> None:
    usage = usage_of(await answers(pair, target_llm_usage=target))
    tell(f"LLM usage for a target of {target}", round(usage, 4))
    assert usage == pytest.approx(target, rel=0.2)


async def test_target_avg_params_b_is_the_usage_that_fits_it_and_its_threshold_asks_for_the_same(
    pair: RunningPair,
) -> None:
    info = await front_info(pair.front)
    slm, router, llm = (part.num_parameters for part in (info.slm, info.router, info.llm))
    by_usage = await answers(pair, target_llm_usage=0.125)
    by_params = await answers(pair, target_avg_params_b=(slm + router + llm * 0.125) / 1e9)
    threshold = by_usage[0].usage.threshold
    by_threshold = await answers(pair, threshold=threshold)
    assert 0.0 < threshold < 1.0
    assert by_params[0].usage.threshold == pytest.approx(threshold, rel=1e-5)
    same = [one.token_ids == other.token_ids for one, other in zip(by_usage, by_threshold, strict=True)]
    # Batches come together differently each time, and one query may hold a near-tie.
    assert sum(same) >= NUM_QUERIES - 1


async def test_ends_of_the_range_are_one_model_alone(pair: RunningPair) -> None:
    async with client(pair.front) as stub:
        slm_alone, llm_alone = [await generate(stub, request(0, target_llm_usage=target)) for target in (0.0, 1.0)]
    assert not any(slm_alone.from_llm)
    assert all(llm_alone.from_llm)


async def test_budget_without_a_sweep_in_the_checkpoint_is_a_failed_precondition(
    pair: RunningPair, tmp_path: Path
) -> None:
    checkpoint = load_checkpoint(WEIGHTS_DIR / "router")
    description = dataclasses.replace(checkpoint.description, sweep=())
    save_checkpoint(RouterCheckpoint(checkpoint.router, description), tmp_path / "router")
    arguments = ("--checkpoint", str(tmp_path / "router"), "--slm-model", str(WEIGHTS_DIR / "slm"))
    async with running(Replica("router_service", *arguments, directory=tmp_path / "without-sweep")) as router:
        front = pair.orchestrator("front-without-sweep", router=router.address)
        async with running(front), client(front) as stub:
            error = await status_of(stub.Generate(request(0, target_llm_usage=0.1)))
            answer = await generate(stub, request(0))
    assert error.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert str(error.details()).startswith("target_llm_usage: ")
    assert answer.usage.threshold == description.threshold
