"""The client before real orchestrators that are killed, frozen and ended under its streams."""

from __future__ import annotations

import asyncio
import signal
from contextlib import AsyncExitStack, aclosing

import grpc
import pytest
from trivium.v1 import orchestrator_pb2 as pb

from evaluation.exactness import Reference
from evaluation.reference.pair import LoadedPair
from services.client import AsyncClient, Completion, GenerationFailed
from tests.integration.harness.completions import endless_request, noise, request_for
from tests.integration.harness.pair import Replica, RunningPair, front_info
from tests.serving import until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

PATIENCE_S = 120.0


async def complete(client: AsyncClient, request: pb.GenerateRequest, started: asyncio.Semaphore) -> Completion:
    """Collects an answer; releases `started` once a fifth of it is there."""
    completion, is_told = Completion(), False
    async with aclosing(client.generate(request)) as parts:
        async for part in parts:
            completion.add(part)
            if not is_told and len(completion.tokens) >= request.max_new_tokens // 5:
                is_told = True
                started.release()
    return completion


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM], ids=lambda number: number.name)
async def test_streams_whose_orchestrator_ends_go_on_elsewhere_as_if_nothing_had_been(
    pair: RunningPair, references: list[Reference], reference_pair: LoadedPair, ending: signal.Signals
) -> None:
    redis = ("--redis-url", pair.redis.url, "--token-log-interval-ms", "20", "--drain-timeout-s", "0")
    requests = [endless_request(references[0], 300, reference_pair)]
    for seed, reference in enumerate(references[:3]):
        request = request_for(reference, sampling=noise(seed))
        request.max_new_tokens = 300
        requests.append(request)
    async with AsyncExitStack() as stack:
        victim, other = [
            await stack.enter_async_context(pair.running_orchestrator(f"{name}-{ending.name}", *redis))
            for name in ("victim", "other")
        ]
        client = await stack.enter_async_context(AsyncClient([victim.address, other.address]))
        whole = [await client.complete(request) for request in requests]
        # Ends in the middle of what the break lies in.
        middle = whole[0].tokens[180:190]
        stopped = pb.GenerateRequest()
        stopped.CopyFrom(requests[0])
        stopped.stop.append("".join(token.text for token in middle))
        requests.append(stopped)
        whole.append(await client.complete(stopped))
        started = asyncio.Semaphore(0)
        streaming = [asyncio.create_task(complete(client, request, started)) for request in requests * 2]
        await asyncio.wait_for(started.acquire(), PATIENCE_S)
        await until(lambda: _runs(victim), timeout_s=PATIENCE_S)
        victim.process.signal(ending)
        try:
            async with asyncio.timeout(PATIENCE_S):
                resumed = await asyncio.gather(*streaming)
        finally:
            if ending is signal.SIGSTOP:
                victim.process.signal(signal.SIGCONT)
    for got, want in zip(resumed, whole * 2, strict=True):
        assert (got.token_ids, got.text, got.finish.reason) == (want.token_ids, want.text, want.finish.reason)
        assert got.finish.stop == want.finish.stop
        assert got.usage.num_prompt_tokens == want.usage.num_prompt_tokens
        assert got.usage.num_llm_tokens == want.usage.num_llm_tokens


async def test_caller_that_leaves_or_runs_out_of_time_frees_the_orchestrator(
    pair: RunningPair, references: list[Reference], reference_pair: LoadedPair
) -> None:
    request = endless_request(references[0], 900, reference_pair)
    async with AsyncClient(pair.front.address) as client:
        async with aclosing(client.generate(request)) as parts:
            await anext(parts)
            assert await _runs(pair.front)
        await until(lambda: _is_empty(pair.front), timeout_s=10)
        with pytest.raises(GenerationFailed) as error:
            await client.complete(request, timeout_s=0.3)
        assert error.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
        await until(lambda: _is_empty(pair.front), timeout_s=10)


async def test_cancel_finds_a_request_of_another_client_and_ends_it(
    pair: RunningPair, references: list[Reference], reference_pair: LoadedPair
) -> None:
    request = endless_request(references[0], 900, reference_pair)
    request.request_id = "somebody's"
    targets = [pair.front.address, pair.other_front.address]
    async with AsyncClient(targets) as client, AsyncClient(targets) as other:
        started = asyncio.Semaphore(0)
        streaming = asyncio.create_task(complete(client, request, started))
        await asyncio.wait_for(started.acquire(), PATIENCE_S)
        assert await other.cancel("somebody's")
        with pytest.raises(GenerationFailed) as error:
            await streaming
        assert error.value.code is grpc.StatusCode.CANCELLED
        assert not await other.cancel("somebody's")


async def _runs(front: Replica) -> bool:
    return (await front_info(front)).load.num_active_requests > 0


async def _is_empty(front: Replica) -> bool:
    return not await _runs(front)
