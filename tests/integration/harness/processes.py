"""The project's processes: how they are started, watched and ended. How one comes to life is a `Launch`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.common.serving.channels import open_channel
from tests.serving import until

# Importing torch takes a busy machine a minute; a process that is told to stop meanwhile finishes that first.
START_TIMEOUT_S = 240.0
STOP_TIMEOUT_S = 150.0


class Launched(Protocol):
    """What has been launched, as `subprocess.Popen` describes it."""

    @property
    def pid(self) -> int:
        """Its process id."""

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""

    def send_signal(self, sig: int, /) -> None:
        """Sends a signal to it, if it still runs."""

    def wait(self) -> int:
        """Waits for its end; returns the exit code."""


class Launch(Protocol):
    """A way to start a process."""

    def __call__(self, module: str, arguments: Sequence[str], log: Path, environ: Mapping[str, str]) -> Launched:
        """Starts `module` as a program with these flags and variables; what it writes goes to `log`."""


def spawn(module: str, arguments: Sequence[str], log: Path, environ: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Starts `python -m <module>`, as a user does."""
    with log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=dict(environ),
        )


class Process:
    """A running service.

    Args:
        module: "services.slm", "services.llm", "router_service", ...
        arguments: Its flags; `--port-file` is added.
        directory: Where its log and port file go.
        environ: Variables beside those of this process.
        launch: How it is started.
    """

    def __init__(
        self,
        module: str,
        *arguments: str,
        directory: Path,
        environ: Mapping[str, str] | None = None,
        launch: Launch = spawn,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.module = module
        self._log_path = directory / "log"
        self._port_path = directory / "port"
        # One thread for each process: tests run many on few cores.
        variables = {**os.environ, "OMP_NUM_THREADS": "1", **(environ or {})}
        flags = ["--port-file", str(self._port_path), *arguments]
        self._launched = launch(module, flags, self._log_path, variables)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._launched.pid

    @property
    def log(self) -> str:
        """What it wrote so far."""
        return self._log_path.read_text(errors="replace")

    def log_lines(self) -> list[dict[str, Any]]:
        """Its JSON log lines."""
        return [json.loads(line) for line in self.log.splitlines() if line.startswith("{")]

    @property
    def target(self) -> str:
        """Where it listens, for `open_channel`. Valid once it does."""
        return f"127.0.0.1:{int(self._port_path.read_text())}"

    @property
    def is_alive(self) -> bool:
        """Whether it hasn't ended yet."""
        return self._launched.poll() is None

    async def until_listening(self) -> None:
        """Waits until it listens, whether it serves or not."""
        await until(self._port_path.exists, START_TIMEOUT_S, self._check_alive)

    async def until_serving(self) -> None:
        """Waits until its health is SERVING."""
        await self.until_listening()
        async with open_channel(self.target) as channel:
            await until(lambda: self.is_serving(channel), START_TIMEOUT_S, self._check_alive)

    async def is_serving(self, channel: grpc.aio.Channel) -> bool:
        """Whether its health is SERVING."""
        return bool(await self.health(channel) == health_pb2.HealthCheckResponse.SERVING)

    async def health(self, channel: grpc.aio.Channel) -> health_pb2.HealthCheckResponse.ServingStatus:
        """Asks for its health."""
        stub = health_pb2_grpc.HealthStub(channel)
        return (await stub.Check(health_pb2.HealthCheckRequest(), wait_for_ready=True)).status

    async def until_exited(self) -> int:
        """Waits for its end; returns the exit code, negative for a signal."""
        await until(lambda: not self.is_alive, STOP_TIMEOUT_S)
        return self._launched.wait()

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to it."""
        self._launched.send_signal(number)

    async def stop(self) -> int:
        """Ends it with SIGTERM and returns the exit code; kills it where that takes too long."""
        self.signal(signal.SIGTERM)
        try:
            return await self.until_exited()
        except TimeoutError:
            self.kill()
            raise

    def kill(self) -> None:
        """Ends it at once."""
        self.signal(signal.SIGKILL)
        self._launched.wait()

    def _check_alive(self) -> None:
        if (code := self._launched.poll()) is not None:
            raise AssertionError(f"{self.module} ended with {code}:\n{self.log}")


@asynccontextmanager
async def running(
    module: str, *arguments: str, directory: Path, environ: Mapping[str, str] | None = None
) -> AsyncIterator[Process]:
    """Starts a process, waits until it serves, and stops it in the end if it still runs."""
    process = Process(module, *arguments, directory=directory, environ=environ)
    try:
        await process.until_serving()
        yield process
    finally:
        await process.stop()


async def run_to_end(
    module: str, *arguments: str, directory: Path, environ: Mapping[str, str] | None = None
) -> tuple[int, str]:
    """Runs a process that ends by itself; returns its exit code and what it wrote."""
    process = Process(module, *arguments, directory=directory, environ=environ)
    try:
        return await process.until_exited(), process.log
    finally:
        process.kill()
