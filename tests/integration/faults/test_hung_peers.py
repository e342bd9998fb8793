"""A process that is alive and silent costs its streams a pause, and a service that is gone is told of."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import grpc
import pytest
from grpc_health.v1 import health_pb2

from evaluation.exactness import Reference
from services.common.serving.channels import open_channel
from tests.integration.harness.completions import (
    Completion,
    assert_is_reference,
    client,
    cycled,
    generate,
    request_for,
    status_of,
    tell,
)
from tests.integration.harness.pair import Replica, RunningPair, front_info, running
from tests.serving import until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

PATIENCE_S = 120.0
STOPPED_S = 12.0
"""How long a process is stopped: far longer than a pause may be."""
MAX_PAUSE_S = 5.0


class _Gaps:
    """The longest time without a message on any of the streams that run."""

    def __init__(self) -> None:
        self._last: dict[int, float] = {}
        self.longest_s = 0.0

    def heard(self, stream: int) -> None:
        now = asyncio.get_running_loop().time()
        self.longest_s = max(self.longest_s, now - self._last.get(stream, now))
        self._last[stream] = now

    def over(self, stream: int) -> None:
        self._last.pop(stream, None)


async def _stream_until(
    over: asyncio.Event, front: Replica, references: list[Reference], gaps: _Gaps, num_streams: int
) -> int:
    """Keeps streams running, each held to its reference, until it is over. Returns how many there were."""
    num_finished = 0

    async def stream(number: int, stub: object) -> None:
        nonlocal num_finished
        while not over.is_set():
            reference = references[(number + num_finished) % len(references)]
            gaps.heard(number)
            completion = await generate(stub, request_for(reference), lambda: gaps.heard(number))  # type: ignore[arg-type]
            gaps.over(number)
            assert_is_reference(completion, reference)
            num_finished += 1

    async with client(front) as stub, asyncio.TaskGroup() as tasks:
        for number in range(num_streams):
            tasks.create_task(stream(number, stub))
    return num_finished


@asynccontextmanager
async def _stopped(process_signal: Callable[[signal.Signals], None]) -> AsyncIterator[None]:
    process_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process_signal(signal.SIGCONT)


@pytest.mark.alone
@pytest.mark.parametrize("kind", ["slm", "router", "llm"])
async def test_one_of_two_replicas_stopped_pauses_the_streams_for_seconds(
    pair: RunningPair, routed_references: list[Reference], kind: str
) -> None:
    replica: Replica = getattr(pair, kind)
    async with running(replica.twin(pair.directory / f"second-{kind}")) as second:
        addresses = {kind: f"{replica.address},{second.address}"}
        async with pair.running_orchestrator(f"two-{kind}", **addresses) as front:
            gaps, over = _Gaps(), asyncio.Event()
            streaming = asyncio.create_task(_stream_until(over, front, routed_references, gaps, num_streams=16))
            await asyncio.sleep(3)
            usual_s, gaps.longest_s = gaps.longest_s, 0.0
            async with _stopped(second.process.signal):
                await asyncio.sleep(STOPPED_S)
            await asyncio.sleep(3)
            over.set()
            num_streams = await asyncio.wait_for(streaming, PATIENCE_S)
    tell(f"{kind} stopped: longest pause, usual gap, streams", (gaps.longest_s, usual_s, num_streams))
    # What a busy machine adds to every gap isn't the stop's.
    assert 1.0 < gaps.longest_s < MAX_PAUSE_S + usual_s


@pytest.mark.parametrize("kind", ["slm", "router"])
async def test_only_replica_stopped_ends_streams_after_the_grace_time_and_the_service_comes_back(
    pair: RunningPair, routed_references: list[Reference], kind: str
) -> None:
    replica: Replica = getattr(pair, kind)
    async with (
        pair.running_orchestrator(f"only-{kind}", "--peer-grace-s", "1") as front,
        client(front) as stub,
        open_channel(front.address) as channel,
    ):

        async def health_is(status: health_pb2.HealthCheckResponse.ServingStatus) -> bool:
            return bool(await front.process.health(channel) == status)

        call = stub.Generate(request_for(routed_references[0]))
        async with _stopped(replica.process.signal):
            error = await asyncio.wait_for(status_of(call, Completion()), PATIENCE_S)
            assert (error.code(), error.details()) == (grpc.StatusCode.UNAVAILABLE, f"{kind}: no replica for 1 s")
            await until(lambda: health_is(health_pb2.HealthCheckResponse.NOT_SERVING), PATIENCE_S)
            refused = await status_of(stub.Generate(request_for(routed_references[0])))
            assert (refused.code(), refused.details()) == (error.code(), error.details())
        await until(lambda: health_is(health_pb2.HealthCheckResponse.SERVING), PATIENCE_S)
        assert_is_reference(await generate(stub, request_for(routed_references[0])), routed_references[0])


async def test_redis_stopped_costs_nothing(pair: RunningPair, references: list[Reference]) -> None:
    async with _stopped(pair.signal_redis), client(pair.front) as stub:
        completions = await asyncio.wait_for(
            asyncio.gather(*(generate(stub, request_for(reference)) for reference in cycled(references, 16))),
            PATIENCE_S,
        )
    for completion, reference in zip(completions, cycled(references, 16), strict=True):
        assert_is_reference(completion, reference)

    async def index_is_back() -> bool:
        return (await front_info(pair.front)).load.prefix_index_available

    await until(index_is_back, PATIENCE_S)
