"""An orchestrator that writes what a test tells it to, behind the production server's interceptor."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from trivium.v1 import orchestrator_pb2 as pb
from trivium.v1 import orchestrator_pb2_grpc

from services.common.serving.interceptors import CallGuard
from services.common.serving.lifecycle import Lifecycle
from services.common.serving.server import create_server
from tests.serving import ServingSettings

ANSWER = tuple(range(100, 120))
"""Token ids of what it writes."""


def message(token_ids: tuple[int, ...]) -> pb.GenerateResponse:
    """A message with these tokens, each of which is a character of text."""
    num = len(token_ids)
    return pb.GenerateResponse(
        text="".join(chr(token_id) for token_id in token_ids),
        token_ids=token_ids,
        sources=[pb.TOKEN_SOURCE_SLM] * num,
        divergence_probabilities=[0.5] * num,
        text_lengths=[1] * num,
    )


def last_message(num_tokens: int) -> pb.GenerateResponse:
    """The end of an answer of so many tokens."""
    usage = pb.Usage(num_completion_tokens=num_tokens)
    return pb.GenerateResponse(finish=pb.Finish(reason=pb.FINISH_REASON_STOP, usage=usage))


Act = Callable[[Any], Awaitable[None]]
"""What happens to a call in the middle of its stream; it is given the call's context."""


@dataclass
class Call:
    """How a call goes: so many tokens, then something happens, if anything does, or after the last message."""

    num_tokens: int = len(ANSWER)
    act: Act | None = None
    last_act: Act | None = None


@dataclass
class FakeOrchestrator(orchestrator_pb2_grpc.OrchestratorServiceServicer):
    """Streams `ANSWER` from where each call asks for it, one token a message, as `calls` say one after another."""

    calls: deque[Call] = field(default_factory=deque)
    requests: list[pb.GenerateRequest] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    """What the calls of `requests` showed."""
    cancelled_ids: list[str] = field(default_factory=list)
    num_running: int = 0
    target: str = ""
    server: grpc.aio.Server = field(init=False)

    async def Generate(self, request: pb.GenerateRequest, context: Any) -> AsyncIterator[pb.GenerateResponse]:
        self.requests.append(request)
        self.keys.append(dict(context.invocation_metadata()).get("authorization"))
        call = self.calls.popleft() if self.calls else Call()
        self.num_running += 1
        try:
            for index, token_id in enumerate(ANSWER[request.resume_from :][: call.num_tokens]):
                response = message((token_id,))
                response.request_id = request.request_id
                if index == 0:
                    response.prompt.num_tokens = 7
                yield response
            if call.act:
                await call.act(context)
            yield last_message(len(ANSWER))
            if call.last_act:
                await call.last_act(context)
        finally:
            self.num_running -= 1

    async def Cancel(self, request: pb.CancelRequest, context: Any) -> pb.CancelResponse:
        self.cancelled_ids.append(request.request_id)
        return pb.CancelResponse(cancelled=False)

    async def GetServerInfo(
        self, request: pb.OrchestratorServiceGetServerInfoRequest, context: Any
    ) -> pb.OrchestratorServiceGetServerInfoResponse:
        return pb.OrchestratorServiceGetServerInfoResponse(context_length=512)

    def register(self, server: grpc.aio.Server) -> None:
        orchestrator_pb2_grpc.add_OrchestratorServiceServicer_to_server(self, server)

    async def start(self, address: str = "127.0.0.1:0") -> None:
        lifecycle = Lifecycle("trivium.v1.OrchestratorService", "fake")
        self.server = create_server(self, lifecycle, CallGuard(lifecycle), ServingSettings())  # type: ignore[arg-type]
        host = address.rpartition(":")[0]
        self.target = f"{host}:{self.server.add_insecure_port(address)}"
        await self.server.start()
        await lifecycle.mark_ready()

    async def kill(self) -> None:
        """Ends it with all its calls, as they are."""
        await self.server.stop(0)


@asynccontextmanager
async def serving(*orchestrators: FakeOrchestrator) -> AsyncIterator[list[str]]:
    """Serves them; yields where."""
    for orchestrator in orchestrators:
        await orchestrator.start()
    try:
        yield [orchestrator.target for orchestrator in orchestrators]
    finally:
        await asyncio.gather(*(orchestrator.kill() for orchestrator in orchestrators))


def abort(code: grpc.StatusCode, details: str = "ended", **metadata: str) -> Act:
    """Ends the call with a status."""

    async def act(context: Any) -> None:
        await context.abort(code, details, tuple((key.replace("_", "-"), value) for key, value in metadata.items()))

    return act


async def hang(context: Any) -> None:
    """Nothing more comes."""
    await asyncio.Event().wait()
