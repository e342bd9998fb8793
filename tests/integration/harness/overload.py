"""More requests at once than are admitted: the rest has to be refused at once, and told when to come again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from trivium.v1 import orchestrator_pb2_grpc

from evaluation.exactness import Reference
from tests.integration.harness.completions import Completion, assert_is_reference, generate, request_for


@dataclass
class Overload:
    """How requests that were sent at once ended. Each of them finished as its reference, or was refused in order."""

    num_finished: int = 0
    num_refused: int = 0
    slowest_refusal_s: float = 0.0


async def send_at_once(
    stub: orchestrator_pb2_grpc.OrchestratorServiceAsyncStub, references: Sequence[Reference]
) -> Overload:
    """Sends a request for each reference, all at the same time, and waits for all of them."""
    outcomes = await asyncio.gather(*(_refusal_or_completion(stub, reference) for reference in references))
    ended = Overload()
    for (outcome, elapsed_s), reference in zip(outcomes, references, strict=True):
        if isinstance(outcome, Completion):
            assert_is_reference(outcome, reference)
            ended.num_finished += 1
        else:
            _assert_tells_when_to_retry(outcome)
            ended.num_refused += 1
            ended.slowest_refusal_s = max(ended.slowest_refusal_s, elapsed_s)
    return ended


async def _refusal_or_completion(
    stub: orchestrator_pb2_grpc.OrchestratorServiceAsyncStub, reference: Reference
) -> tuple[grpc.aio.AioRpcError | Completion, float]:
    """What a request ended with, and after how many seconds."""
    began = time.monotonic()
    try:
        return await generate(stub, request_for(reference)), time.monotonic() - began
    except grpc.aio.AioRpcError as error:
        return error, time.monotonic() - began


def _assert_tells_when_to_retry(error: grpc.aio.AioRpcError) -> None:
    assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED, error
    status = rpc_status.from_call(error)
    assert status is not None
    retry_info = error_details_pb2.RetryInfo()
    assert status.details[0].Unpack(retry_info)
    assert retry_info.retry_delay.ToMilliseconds() > 0
