"""What the design promises when something dies: a pause at most, and never another token."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2
from trivium.v1 import orchestrator_pb2_grpc

from evaluation.exactness import Reference
from evaluation.reference.pair import WEIGHTS_DIR, LoadedPair
from services.common.serving.channels import open_channel
from tests.integration.harness.completions import (
    Completion,
    assert_is_reference,
    begin,
    client,
    cycled,
    endless_request,
    generate,
    read_into,
    request_for,
    status_of,
    tell,
)
from tests.integration.harness.pair import Replica, RunningPair, front_info, llm_info, running
from tests.integration.harness.processes import run_to_end
from tests.integration.harness.redis_fixture import RedisServer
from tests.serving import until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

RECOVERY_S = 60.0
"""Enough for a busy machine: a process that is started again loads its model first."""


class Streams:
    """Many streams at once, each held to its reference in the end."""

    def __init__(self, stub: orchestrator_pb2_grpc.OrchestratorServiceAsyncStub, references: list[Reference]) -> None:
        self.started = asyncio.Event()
        """Set once a stream has received something."""
        self._references = references
        self._tasks = [
            asyncio.create_task(generate(stub, request_for(reference), self.started.set)) for reference in references
        ]

    @property
    def num_running(self) -> int:
        return sum(not task.done() for task in self._tasks)

    async def finish(self) -> None:
        async with asyncio.timeout(RECOVERY_S * 2):
            completions = await asyncio.gather(*self._tasks)
        for completion, reference in zip(completions, self._references, strict=True):
            assert_is_reference(completion, reference)

    def cancel(self) -> None:
        for task in self._tasks:
            task.cancel()


@asynccontextmanager
async def streaming(front: Replica, references: list[Reference]) -> AsyncIterator[Streams]:
    """Starts streams; once one of them has received something, it's the test's turn."""
    async with client(front) as stub:
        streams = Streams(stub, references)
        try:
            await streams.started.wait()
            yield streams
        finally:
            streams.cancel()


@pytest.mark.parametrize("victim", ["slm", "router", "llm"])
async def test_only_replica_killed_and_restarted_pauses_the_streams(
    pair: RunningPair, routed_references: list[Reference], victim: str
) -> None:
    replica: Replica = getattr(pair, victim)
    async with streaming(pair.front, routed_references[:8]) as streams:
        replica.process.kill()
        num_running = streams.num_running
        await replica.restart()
        await streams.finish()
    assert num_running > 0, "they were over before the kill"


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "stopped"])
async def test_one_of_two_llm_replicas_ended_lets_streams_go_on(
    pair: RunningPair, routed_references: list[Reference], ending: signal.Signals
) -> None:
    # LLM-only, so that each stream needs a replica for every token; without an index, load alone places them.
    references = _llm_only(routed_references)
    async with pair.running_orchestrator(f"two-llms-{ending.name}", llm=pair.both_llms) as front:
        try:
            async with streaming(front, references) as streams:
                await until(lambda: _serves(pair.other_llm), timeout_s=RECOVERY_S)
                pair.other_llm.process.signal(ending)
                num_running = streams.num_running
                await streams.finish()
                # A signal that lets it drain ends it well; none of its sequences is left then.
                code = await pair.other_llm.process.until_exited()
                assert code == (0 if ending == signal.SIGTERM else -signal.SIGKILL)
        finally:
            await pair.other_llm.restart()
    assert num_running > 0


async def test_slm_whose_drain_is_cut_off_pauses_the_streams(
    pair: RunningPair, routed_references: list[Reference]
) -> None:
    impatient = Replica(
        "services.slm", "--model", str(WEIGHTS_DIR / "slm"), "--drain-timeout-s", "0",
        directory=pair.directory / "impatient-slm",
    )  # fmt: skip
    async with (
        running(impatient),
        pair.running_orchestrator("patient", slm=impatient.address) as front,
        streaming(front, routed_references[:8]) as streams,
    ):
        impatient.process.signal(signal.SIGTERM)
        num_running = streams.num_running
        assert await impatient.process.until_exited() == 0
        await impatient.restart()
        await streams.finish()
    assert num_running > 0


async def test_redis_killed_and_restarted_during_32_streams_fails_none_of_them(
    pair: RunningPair, references: list[Reference]
) -> None:
    num_failures = (await front_info(pair.front)).load.num_prefix_index_failures
    port = pair.redis.port
    async with streaming(pair.front, cycled(references, 32)) as streams:
        pair.kill_redis()
        num_running = streams.num_running
        await until(lambda: _index_is(pair.front, available=False), timeout_s=RECOVERY_S)
        pair.redis = RedisServer(port)
        pair.redis.start()
        await streams.finish()
    assert num_running > 0
    tell("streams running at the kill", num_running)

    await until(lambda: _index_is(pair.front, available=True), timeout_s=RECOVERY_S)
    load = (await front_info(pair.front)).load
    assert load.num_prefix_index_failures > num_failures
    async with client(pair.front) as stub:
        await generate(stub, request_for(references[0]))
    assert (await front_info(pair.front)).load.num_redis_commands > load.num_redis_commands


@pytest.mark.parametrize("has_redis", [True, False], ids=["redis", "no-redis"])
async def test_orchestrator_killed_stream_resumes_elsewhere_without_gap_or_duplicate(
    pair: RunningPair, routed_references: list[Reference], has_redis: bool
) -> None:
    reference = _llm_only(routed_references)[0]
    redis = ("--redis-url", pair.redis.url, "--token-log-interval-ms", "10") if has_redis else ()
    received = Completion()
    request = request_for(reference, request_id=f"resumed, redis {has_redis}")
    async with pair.running_orchestrator("victim", *redis) as victim:
        async with client(victim) as stub:
            call = stub.Generate(request)
            while len(received.token_ids) < len(reference.completion) // 4:
                await read_into(received, call)
            victim.process.kill()
            assert (await status_of(call, received)).code() == grpc.StatusCode.UNAVAILABLE
        assert received.finish is None
        # Without Redis nobody knows what was accepted; it is decoded once more.
        async with pair.running_orchestrator("successor", *redis) as successor, client(successor) as stub:
            request.resume_from = len(received.token_ids)
            async for response in stub.Generate(request):
                received.add(response)
    assert_is_reference(received, reference)
    assert received.usage.num_completion_tokens == len(reference.completion)


async def test_resume_with_another_prompt_is_refused(
    pair: RunningPair, references: list[Reference], reference_pair: LoadedPair
) -> None:
    request = endless_request(references[0], 600, reference_pair)
    request.request_id = "one name, two prompts"
    async with client(pair.front) as stub:
        call = stub.Generate(request)
        await begin(call)
        other = request_for(references[1], request_id=request.request_id, resume_from=1)
        error = await status_of(stub.Generate(other))
        assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert "request_id" in (error.details() or "")
        call.cancel()


async def test_router_of_another_slm_is_refused_by_name_of_both_sides(
    pair: RunningPair, references: list[Reference], tmp_path: Path
) -> None:
    checkpoint = tmp_path / "router"
    shutil.copytree(WEIGHTS_DIR / "router", checkpoint)
    description = json.loads((checkpoint / "router.json").read_text())
    description["slm"] |= {"model_id": "another-slm", "tokenizer_sha256": "0" * 64}
    (checkpoint / "router.json").write_text(json.dumps(description))
    router = Replica(
        "router_service", "--checkpoint", str(checkpoint), "--slm-model", str(WEIGHTS_DIR / "slm"),
        directory=tmp_path / "foreign",
    )  # fmt: skip
    async with running(router):
        front = pair.orchestrator("mismatched", router=router.address)
        front.launch()
        try:
            await front.until_listening()
            async with client(front) as stub, open_channel(front.address) as channel:

                async def mismatch() -> str:
                    error = await status_of(stub.Generate(request_for(references[0]), wait_for_ready=True))
                    return error.details() or "" if error.code() == grpc.StatusCode.FAILED_PRECONDITION else ""

                # Until all three have answered, it is only starting.
                await until(mismatch, timeout_s=RECOVERY_S)
                details = await mismatch()
                doctor = await asyncio.create_subprocess_exec(
                    sys.executable, "-m", "services.cli", "doctor", "--json", "--state-dir", str(tmp_path),
                    "--slm", pair.slm.address, "--router", router.address,
                    stdout=subprocess.PIPE,
                )  # fmt: skip
                report, _ = await doctor.communicate()
                assert await front.process.health(channel) == health_pb2.HealthCheckResponse.NOT_SERVING
        finally:
            front.process.kill()
    assert "'another-slm'" in details
    assert "0" * 64 in details
    assert (await front_info(pair.front)).slm.tokenizer_sha256 in details
    assert any("trained for another-slm" in problem for problem in json.loads(report)["problems"])


async def test_port_that_is_taken_ends_the_process_with_a_clear_message(pair: RunningPair, tmp_path: Path) -> None:
    port = pair.front.address.rpartition(":")[2]
    code, output = await run_to_end(
        "services.orchestrator", "--port", port, "--tokenizer", str(WEIGHTS_DIR / "slm"),
        "--slm", pair.slm.address, "--router", pair.router.address, "--llm", pair.llm.address,
        directory=tmp_path,
    )  # fmt: skip
    assert code == 1
    assert f"can't listen on 127.0.0.1:{port}" in output


def _llm_only(references: list[Reference]) -> list[Reference]:
    return [reference for reference in references if reference.threshold == 0][:8]


async def _serves(llm: Replica) -> bool:
    return (await llm_info(llm)).load.num_active_sequences > 0


async def _index_is(front: Replica, *, available: bool) -> bool:
    return (await front_info(front)).load.prefix_index_available == available
