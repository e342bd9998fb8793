"""One reference pair for all tests of the running system: real processes on loopback, and a real Redis.

Owns what is started and how a replica is killed and started again on its port. Two orchestrators share everything
but the LLM replicas: `front` has one of them, `other_front` both.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from trivium.v1 import (
    common_pb2,
    llm_pb2,
    llm_pb2_grpc,
    orchestrator_pb2,
    orchestrator_pb2_grpc,
    router_pb2,
    router_pb2_grpc,
    slm_pb2,
    slm_pb2_grpc,
)

from evaluation.reference.pair import WEIGHTS_DIR
from services.common.serving.channels import open_channel
from tests.integration.harness.forked import fork
from tests.integration.harness.processes import Process, spawn
from tests.integration.harness.redis_fixture import RedisServer


class Replica:
    """A process that keeps its port through its lives."""

    def __init__(self, module: str, *arguments: str, directory: Path) -> None:
        self._module = module
        self._arguments = arguments
        self._directory = directory
        self._num_lives = 0
        self._port = 0
        self.process: Process

    def twin(self, directory: Path) -> Replica:
        """Another one of the same, which isn't launched."""
        return Replica(self._module, *self._arguments, directory=directory)

    def launch(self) -> None:
        """Starts it, and doesn't wait."""
        self._num_lives += 1
        directory = self._directory / str(self._num_lives)
        # Another replica may have had this folder before.
        (directory / "port").unlink(missing_ok=True)
        arguments = ("--port", str(self._port), *self._arguments)
        # SGLang starts processes of its own, and is to find what it finds with a user.
        launch = spawn if "sglang" in arguments else fork
        self.process = Process(self._module, *arguments, directory=directory, launch=launch)

    async def until_listening(self) -> None:
        await self.process.until_listening()
        self._port = int(self.process.target.rpartition(":")[2])

    async def until_serving(self) -> None:
        await self.until_listening()
        await self.process.until_serving()

    async def restart(self) -> None:
        """Starts it again on the same port; ends it first if it still runs."""
        self.process.kill()
        self.launch()
        await self.until_serving()

    @property
    def address(self) -> str:
        """Where it listens, or listened last."""
        return f"127.0.0.1:{self._port}"


@asynccontextmanager
async def running(replica: Replica) -> AsyncIterator[Replica]:
    """Launches a replica that serves; kills it in the end."""
    replica.launch()
    try:
        await replica.until_serving()
        yield replica
    finally:
        replica.process.kill()


class RunningPair:
    """All processes of the pair. Every test leaves all of them serving."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.redis = RedisServer()
        model = "--model"
        self.slm = Replica("services.slm", model, str(WEIGHTS_DIR / "slm"), directory=directory / "slm")
        self.llm = Replica("services.llm", model, str(WEIGHTS_DIR / "llm"), directory=directory / "llm")
        self.other_llm = Replica("services.llm", model, str(WEIGHTS_DIR / "llm"), directory=directory / "llm-2")
        self.router = Replica(
            "router_service", "--checkpoint", str(WEIGHTS_DIR / "router"), "--slm-model", str(WEIGHTS_DIR / "slm"),
            directory=directory / "router",
        )  # fmt: skip
        self.front: Replica
        self.other_front: Replica

    async def start(self) -> None:
        self.redis.start()
        backends = (self.slm, self.router, self.llm, self.other_llm)
        for replica in backends:
            replica.launch()
        for replica in backends:
            await replica.until_listening()
        self.front = self.orchestrator("front", "--redis-url", self.redis.url)
        self.other_front = self.orchestrator("front-2", "--redis-url", self.redis.url, llm=self.both_llms)
        for front in (self.front, self.other_front):
            front.launch()
        for replica in (*backends, self.front, self.other_front):
            await replica.until_serving()

    def orchestrator(self, name: str, *arguments: str, llm: str = "", slm: str = "", router: str = "") -> Replica:
        """An orchestrator before this pair's replicas, except where addresses are given. It isn't launched."""
        return Replica(
            "services.orchestrator", "--tokenizer", str(WEIGHTS_DIR / "slm"), "--slm", slm or self.slm.address,
            "--router", router or self.router.address, "--llm", llm or self.llm.address, *arguments,
            directory=self.directory / name,
        )  # fmt: skip

    @asynccontextmanager
    async def running_orchestrator(
        self, name: str, *arguments: str, llm: str = "", slm: str = "", router: str = ""
    ) -> AsyncIterator[Replica]:
        """An orchestrator of a test's own, that the test may end."""
        async with running(self.orchestrator(name, *arguments, llm=llm, slm=slm, router=router)) as replica:
            yield replica

    @property
    def both_llms(self) -> str:
        """The addresses of both LLM replicas, as a setting."""
        return f"{self.other_llm.address},{self.llm.address}"

    def signal_redis(self, number: signal.Signals) -> None:
        os.kill(self.redis.pid, number)

    def kill_redis(self) -> None:
        self.signal_redis(signal.SIGKILL)
        self.redis.stop()

    async def stop(self) -> None:
        names = ("front", "other_front", "slm", "router", "llm", "other_llm")
        replicas = [replica for name in names if (replica := getattr(self, name, None)) is not None]
        try:
            await asyncio.gather(*(replica.process.stop() for replica in replicas if hasattr(replica, "process")))
        finally:
            self.redis.stop()


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPair]:
    running = RunningPair(tmp_path_factory.mktemp("pair"))
    try:
        asyncio.run(running.start())
        yield running
    finally:
        asyncio.run(running.stop())


async def slm_load(replica: Replica) -> common_pb2.EngineLoad:
    async with open_channel(replica.address) as channel:
        info = await slm_pb2_grpc.SlmServiceStub(channel).GetServerInfo(slm_pb2.SlmServiceGetServerInfoRequest())
        return info.load


async def llm_info(replica: Replica) -> llm_pb2.LlmServiceGetServerInfoResponse:
    async with open_channel(replica.address) as channel:
        info: Any = await llm_pb2_grpc.LlmServiceStub(channel).GetServerInfo(llm_pb2.LlmServiceGetServerInfoRequest())
        return info  # type: ignore[no-any-return]


async def router_load(replica: Replica) -> router_pb2.RouterLoad:
    async with open_channel(replica.address) as channel:
        stub = router_pb2_grpc.RouterServiceStub(channel)
        return (await stub.GetServerInfo(router_pb2.RouterServiceGetServerInfoRequest())).load


async def front_info(replica: Replica) -> orchestrator_pb2.OrchestratorServiceGetServerInfoResponse:
    async with open_channel(replica.address) as channel:
        stub = orchestrator_pb2_grpc.OrchestratorServiceStub(channel)
        return await stub.GetServerInfo(orchestrator_pb2.OrchestratorServiceGetServerInfoRequest())
