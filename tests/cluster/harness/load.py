"""Load on an orchestrator: as many streams at once as asked for at the moment, each held to its reference."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence

import grpc
from trivium.v1 import orchestrator_pb2_grpc

from evaluation.exactness import Reference
from services.common.serving.channels import open_channel
from tests.integration.harness.completions import assert_is_reference, generate, request_for


class Load:
    """Streams that follow one another without a break..

    Args:
        address: The orchestrator's.
        references: What is asked for, in turn.
        options: Further fields of the requests.
    """

    def __init__(self, address: str, references: Sequence[Reference], **options: int) -> None:
        self.num_done = 0
        self.failures: list[str] = []
        """Streams that failed, or wrote another text than their reference."""
        self._address = address
        self._references = itertools.cycle(references)
        self._options = options
        self._wanted = 0
        self._clients: dict[int, asyncio.Task[None]] = {}

    @property
    def num_streams(self) -> int:
        """Streams that run."""
        return len(self._clients)

    def resize(self, num_streams: int) -> None:
        """Changes how many streams run. Those that are too many end with their answer."""
        self._wanted = num_streams
        for number in range(num_streams):
            if number not in self._clients:
                self._clients[number] = asyncio.create_task(self._run(number))

    async def finish(self) -> None:
        """Waits for the answers that are under way, and starts no more."""
        self.resize(0)
        while self._clients:
            await asyncio.wait(self._clients.values())

    async def _run(self, number: int) -> None:
        async with open_channel(self._address) as channel:
            stub = orchestrator_pb2_grpc.OrchestratorServiceStub(channel)
            while number < self._wanted:
                reference = next(self._references)
                try:
                    assert_is_reference(await generate(stub, request_for(reference, **self._options)), reference)
                except (grpc.aio.AioRpcError, AssertionError) as error:
                    self.failures.append(str(error))
                self.num_done += 1
        del self._clients[number]
