"""Replicas die, drain and come back elsewhere at random moments, and no stream notices more than a pause."""

from __future__ import annotations

import asyncio
import itertools
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from trivium.v1 import llm_pb2, llm_pb2_grpc, orchestrator_pb2, orchestrator_pb2_grpc, slm_pb2, slm_pb2_grpc

from evaluation.exactness import Reference
from evaluation.reference.pair import WEIGHTS_DIR, LoadedPair
from services.common.serving.channels import open_channel
from tests.integration.harness.clients import Clients
from tests.integration.harness.completions import tell
from tests.integration.harness.forked import ForkedProcess, HostsFile
from tests.integration.harness.redis_fixture import RedisServer
from tests.ports import free_port
from tests.serving import until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

SEED = 5
NUM_REPLICAS = 2
NUM_STREAMS = 16
NUM_KILLS = 20
MOST_AWAY = 3
"""Replicas that are away at once: enough for a whole service to be gone for a while."""
RECOVERY_S = 60.0
ARGUMENTS = {
    "slm": ("services.slm", "--model", str(WEIGHTS_DIR / "slm")),
    "router": (
        "router_service", "--checkpoint", str(WEIGHTS_DIR / "router"), "--slm-model", str(WEIGHTS_DIR / "slm"),
    ),
    "llm": ("services.llm", "--model", str(WEIGHTS_DIR / "llm")),
}  # fmt: skip


@dataclass
class Service:
    """The replicas of one service, behind one name and port."""

    kind: str
    port: int
    replicas: list[ForkedProcess] = field(default_factory=list)


class Cluster:
    """Two replicas of everything, and a Redis. Each new replica has an address that none had before."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.hosts = HostsFile(directory / "hosts.json")
        self.services = [Service(kind, free_port()) for kind in ARGUMENTS]
        self.fronts: list[ForkedProcess] = []
        self._hosts_left: Iterator[int] = itertools.count(2)
        self._stack = AsyncExitStack()

    async def start(self) -> None:
        await asyncio.gather(*(self.start_replica(service) for service in self.services for _ in range(NUM_REPLICAS)))
        redis = self._stack.enter_context(RedisServer())
        targets = [
            argument
            for service in self.services
            for argument in (f"--{service.kind}", f"{service.kind}.test:{service.port}")
        ]
        for number in range(2):
            front = ForkedProcess(
                "services.orchestrator", "127.0.0.1", free_port(), *targets, "--tokenizer", str(WEIGHTS_DIR / "slm"),
                "--redis-url", redis.url, "--discovery-interval-s", "0.2",
                directory=self.directory / f"front-{number}", hosts=self.hosts,
            )  # fmt: skip
            self._stack.callback(front.kill)
            self.fronts.append(front)
        for front in self.fronts:
            await front.until_serving()

    async def stop(self) -> None:
        await self._stack.aclose()

    async def start_replica(self, service: Service) -> None:
        """Starts a replica, and lists it once it serves."""
        number = next(self._hosts_left)
        module, *arguments = ARGUMENTS[service.kind]
        replica = ForkedProcess(
            module, f"127.0.0.{number}", service.port, *arguments, "--drain-timeout-s", "2",
            directory=self.directory / f"{service.kind}-{number}",
        )  # fmt: skip
        self._stack.callback(replica.kill)
        await replica.until_serving()
        service.replicas.append(replica)
        self.hosts.add(f"{service.kind}.test", replica.host)

    async def replace(self, service: Service, replica: ForkedProcess, ending: signal.Signals, late_s: float) -> None:
        """Ends a replica and starts another one. That a killed one is gone gets known late."""
        service.replicas.remove(replica)
        replica.signal(ending)
        if ending is signal.SIGKILL:
            await asyncio.sleep(late_s)
        self.hosts.remove(f"{service.kind}.test", replica.host)
        await self.start_replica(service)
        assert await replica.until_exited() == (0 if ending is signal.SIGTERM else -signal.SIGKILL)

    async def load(self, front: ForkedProcess) -> orchestrator_pb2.OrchestratorLoad:
        async with open_channel(front.address) as channel:
            stub = orchestrator_pb2_grpc.OrchestratorServiceStub(channel)
            return (await stub.GetServerInfo(orchestrator_pb2.OrchestratorServiceGetServerInfoRequest())).load

    async def num_held(self) -> int:
        """Sequences that SLM and LLM replicas hold."""
        slms, _, llms = self.services
        num_held = 0
        for replica in slms.replicas:
            async with open_channel(replica.address) as channel:
                slm = slm_pb2_grpc.SlmServiceStub(channel)
                num_held += (
                    await slm.GetServerInfo(slm_pb2.SlmServiceGetServerInfoRequest())
                ).load.num_active_sequences
        for replica in llms.replicas:
            async with open_channel(replica.address) as channel:
                llm = llm_pb2_grpc.LlmServiceStub(channel)
                num_held += (
                    await llm.GetServerInfo(llm_pb2.LlmServiceGetServerInfoRequest())
                ).load.num_active_sequences
        return num_held

    async def is_whole_and_idle(self) -> bool:
        """Both orchestrators use two replicas of everything, and nothing is left of any stream."""
        loads = [await self.load(front) for front in self.fronts]
        counts = {(load.num_slm_replicas, load.num_router_replicas, load.num_llm_replicas) for load in loads}
        num_active = sum(load.num_active_requests + load.num_waiting_requests for load in loads)
        return counts == {(NUM_REPLICAS,) * 3} and num_active == 0 and await self.num_held() == 0


@asynccontextmanager
async def running_cluster(directory: Path) -> AsyncIterator[Cluster]:
    cluster = Cluster(directory)
    try:
        await cluster.start()
        yield cluster
    finally:
        await cluster.stop()


async def test_replicas_killed_drained_and_replaced_at_random_cost_no_token(
    routed_references: list[Reference], reference_pair: LoadedPair, tmp_path: Path
) -> None:
    draw = random.Random(SEED)
    kills: Counter[str] = Counter()
    num_hit = 0
    async with running_cluster(tmp_path) as cluster:
        clients = Clients(routed_references, reference_pair.tokenizer)
        slots = asyncio.Semaphore(MOST_AWAY)

        async def replace(service: Service, replica: ForkedProcess, ending: signal.Signals, late_s: float) -> None:
            try:
                await cluster.replace(service, replica, ending, late_s)
            finally:
                slots.release()

        async with asyncio.TaskGroup() as streaming:
            for number in range(NUM_STREAMS):
                streaming.create_task(clients.run(cluster.fronts[number % 2].address))
            await until(lambda: clients.num_running == NUM_STREAMS, timeout_s=RECOVERY_S)
            async with asyncio.TaskGroup() as replacing:
                for _ in range(NUM_KILLS):
                    await slots.acquire()
                    await asyncio.sleep(draw.uniform(0, 0.3))
                    candidates = [(service, replica) for service in cluster.services for replica in service.replicas]
                    service, replica = draw.choice(candidates)
                    ending = draw.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM])
                    num_hit += clients.num_running
                    kills[f"{service.kind} {ending.name}"] += 1
                    replacing.create_task(replace(service, replica, ending, draw.uniform(0, 0.5)))
            clients.stopping = True
        began = time.monotonic()
        await until(cluster.is_whole_and_idle, timeout_s=RECOVERY_S)
        tell("kills", dict(kills))
        tell("streams running at a kill, on average", num_hit / NUM_KILLS)
        tell("streams, tokens", (clients.num_streams, clients.num_tokens))
        tell("longest pause of a stream, s", round(clients.longest_pause_s, 2))
        tell("whole and idle again after, s", round(time.monotonic() - began, 2))
    assert clients.num_streams >= NUM_STREAMS
    assert num_hit >= NUM_KILLS
    assert sum(kills.values()) == NUM_KILLS
