"""Too many requests wait their turn, and too many of those are told to come again; none is hurt in the middle."""

from __future__ import annotations

import asyncio
import time

import grpc
import psutil
import pytest
from trivium.v1 import orchestrator_pb2

from evaluation.exactness import Reference
from evaluation.reference.pair import LoadedPair
from tests.integration.harness.completions import (
    assert_is_reference,
    begin,
    client,
    cycled,
    endless_request,
    generate,
    request_for,
    status_of,
    tell,
)
from tests.integration.harness.flood import flood_from_elsewhere
from tests.integration.harness.overload import send_at_once
from tests.integration.harness.pair import Replica, RunningPair, front_info
from tests.serving import until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

MAX_ACTIVE, MAX_WAITING = 4, 4
BOUNDS = ("--max-active-requests", str(MAX_ACTIVE), "--max-waiting-requests", str(MAX_WAITING))
PATIENCE_S = 60.0
NUM_FLOODING, FLOOD_S = 300, 2.0


async def _load(front: Replica) -> orchestrator_pb2.OrchestratorLoad:
    return (await front_info(front)).load


async def test_four_times_the_bound_at_once_finishes_or_is_refused_at_once_with_retry_info(
    pair: RunningPair, routed_references: list[Reference]
) -> None:
    references = cycled(routed_references, 4 * (MAX_ACTIVE + MAX_WAITING))
    async with pair.running_orchestrator("overloaded", *BOUNDS) as front, client(front) as stub:
        ended = await send_at_once(stub, references)
        load = await _load(front)
    tell("slowest refusal, s", round(ended.slowest_refusal_s, 3))
    # Loose, since a busy machine takes its time to send so many requests.
    assert ended.slowest_refusal_s < 5
    assert ended.num_finished >= MAX_ACTIVE + MAX_WAITING
    assert load.num_requests_refused == ended.num_refused > 0
    assert (load.num_active_requests, load.num_waiting_requests) == (0, 0)


async def test_flood_of_large_requests_is_refused_and_hurts_neither_memory_nor_streams(
    pair: RunningPair, references: list[Reference], reference_pair: LoadedPair
) -> None:
    endless = endless_request(references[0], 600, reference_pair)
    async with pair.running_orchestrator("flooded") as front, client(front) as stub:
        # What a first request makes it import and build isn't the flood's.
        await generate(stub, endless)
        process = psutil.Process(front.process.pid)
        before = process.memory_info().rss
        most = before
        flooding = asyncio.create_task(
            flood_from_elsewhere(front.address, num_requests=NUM_FLOODING, duration_s=FLOOD_S)
        )
        num_tokens = 0
        began = time.monotonic()
        while not flooding.done():
            # Each of them is a stream that runs through the flood, and ends as it should.
            completion = await generate(stub, endless, on_message=lambda: None)
            num_tokens += len(completion.token_ids)
            most = max(most, process.memory_info().rss)
        codes = await flooding
    tell("tokens per second in a flood", round(num_tokens / (time.monotonic() - began)))
    tell("growth in a flood, MiB", round((most - before) / 2**20, 1))
    tell("statuses", dict(codes))
    assert set(codes) <= {"OUT_OF_RANGE", "INVALID_ARGUMENT", "RESOURCE_EXHAUSTED"}
    assert codes.total() == NUM_FLOODING
    assert most - before < 200 * 2**20
    assert "Traceback" not in front.process.log


async def test_request_that_waits_honours_its_deadline_and_can_be_cancelled(
    pair: RunningPair, references: list[Reference], reference_pair: LoadedPair
) -> None:
    endless = endless_request(references[0], 900, reference_pair)
    bounds = ("--max-active-requests", "1", "--max-waiting-requests", "3")
    async with pair.running_orchestrator("queueing", *bounds) as front, client(front) as stub:
        running = stub.Generate(endless)
        await begin(running)
        late = asyncio.create_task(status_of(stub.Generate(request_for(references[1]), timeout=0.5)))
        named = asyncio.create_task(status_of(stub.Generate(request_for(references[1], request_id="named"))))
        left = stub.Generate(request_for(references[2]))

        async def num_waiting(number: int) -> bool:
            return (await _load(front)).num_waiting_requests == number

        await until(lambda: num_waiting(2), timeout_s=PATIENCE_S)
        assert (await late).code() == grpc.StatusCode.DEADLINE_EXCEEDED
        await stub.Cancel(orchestrator_pb2.CancelRequest(request_id="named"))
        assert (await named).code() == grpc.StatusCode.CANCELLED
        left.cancel()
        await until(lambda: num_waiting(0), timeout_s=PATIENCE_S)
        assert (await _load(front)).num_active_requests == 1
        running.cancel()


async def test_llm_lost_slm_only_goes_on_and_says_so_and_fail_ends_with_unavailable(
    pair: RunningPair, routed_references: list[Reference]
) -> None:
    reference = next(reference for reference in routed_references if reference.threshold == 0)
    request = request_for(reference, llm_loss_policy=orchestrator_pb2.LLM_LOSS_POLICY_SLM_ONLY)
    failing = request_for(reference, llm_loss_policy=orchestrator_pb2.LLM_LOSS_POLICY_FAIL)
    async with (
        pair.running_orchestrator("left-alone", "--llm-grace-s", "0.2", "--stream-interval-ms", "0") as front,
        client(front) as stub,
    ):
        token_ids: list[int] = []
        sources: list[int] = []
        usage = orchestrator_pb2.Usage()
        try:
            async for response in stub.Generate(request):
                if not token_ids:
                    pair.llm.process.kill()
                token_ids += response.token_ids
                sources += response.sources
                usage = response.finish.usage
            error = await status_of(stub.Generate(failing))
        finally:
            await pair.llm.restart()
        assert error.code() == grpc.StatusCode.UNAVAILABLE
        assert "llm" in (error.details() or "")
        # Everything is routed again.
        await until(lambda: _has_llm(front), timeout_s=PATIENCE_S)
        assert_is_reference(await generate(stub, request), reference)
    num_before = sources.index(orchestrator_pb2.TOKEN_SOURCE_SLM_FALLBACK)
    assert num_before > 0
    assert token_ids[:num_before] == [token.token_id for token in reference.completion[:num_before]]
    assert set(sources[num_before:]) == {orchestrator_pb2.TOKEN_SOURCE_SLM_FALLBACK}
    assert usage.num_fallback_tokens == len(sources) - num_before


async def _has_llm(front: Replica) -> bool:
    return (await _load(front)).num_llm_replicas == 1
