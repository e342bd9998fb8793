"""A scripted orchestrator in the place of `services.client.AsyncClient`, and a gateway before it on a real socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import httpx
from trivium.v1 import common_pb2
from trivium.v1 import orchestrator_pb2 as pb

from services.client import CallFailed, GenerationFailed
from services.common.serving.telemetry import Telemetry
from services.gateway.app import create_app
from services.gateway.http_server import create_server, listening_socket
from services.gateway.https import RenewingContext
from services.gateway.metrics import Counts, instrument
from services.gateway.middleware import Door
from services.gateway.pair import PairWatch
from services.gateway.settings import GatewaySettings
from services.gateway.state import Gateway

LLM_EVERY = 3
"""Each third token is the LLM's."""


def messages(
    text: str, *, request_id: str = "r", size: int = 3, num_prompt: int = 7, opens: bool = False, reason: int = 1
) -> list[pb.GenerateResponse]:
    """A stream: one token a character, `size` of them a message, the last character held back to the end."""
    found = []
    for start in range(0, len(text), size):
        piece = text[start : start + size]
        found.append(
            pb.GenerateResponse(
                request_id=request_id,
                text=piece,
                token_ids=[ord(each) for each in piece],
                sources=[
                    pb.TOKEN_SOURCE_LLM if index % LLM_EVERY == 0 else pb.TOKEN_SOURCE_SLM
                    for index in range(start, start + len(piece))
                ],
                divergence_probabilities=[0.25] * len(piece),
                text_lengths=[1] * len(piece),
            )
        )
    if not found:
        found.append(pb.GenerateResponse(request_id=request_id))
    found[0].prompt.CopyFrom(pb.PromptInfo(num_tokens=num_prompt, opens_reasoning=opens))
    if found[-1].text_lengths:
        found[-1].text_lengths[-1] = 0
    num_llm = len(range(0, len(text), LLM_EVERY))
    found[-1].finish.CopyFrom(
        pb.Finish(
            reason=reason,  # type: ignore[arg-type]
            usage=pb.Usage(
                num_prompt_tokens=num_prompt,
                num_completion_tokens=len(text),
                num_llm_tokens=num_llm,
                llm_usage_rate=num_llm / len(text) if text else 0,
                avg_activated_params_b=2.0,
                num_slm_tokens_reused=4,
                threshold=0.5,
                used_rule=pb.UsedRule(rule=pb.RoutingRule(name="router", parameters={"threshold": 0.5}), version="1"),
            ),
        )
    )
    return found


Script = Callable[[pb.GenerateRequest], AsyncGenerator[pb.GenerateResponse, None]]


def says(text: str, **options: Any) -> Script:
    """Answers each request with one text."""

    async def script(request: pb.GenerateRequest) -> AsyncGenerator[pb.GenerateResponse, None]:
        for message in messages(text, request_id=request.request_id, **options):
            yield message
            await asyncio.sleep(0)

    return script


def fails(code: grpc.StatusCode, message: str, *, after: Sequence[pb.GenerateResponse] = (), **told: Any) -> Script:
    """Ends each request with an error, after a few messages."""

    async def script(request: pb.GenerateRequest) -> AsyncGenerator[pb.GenerateResponse, None]:
        for response in after:
            yield response
        raise GenerationFailed(code, message, num_tokens=0, **told)

    return script


def waits(seconds: float = 60.0, *, before: Sequence[pb.GenerateResponse] = (), text: str = "late") -> Script:
    """Is silent for a while."""

    async def script(request: pb.GenerateRequest) -> AsyncGenerator[pb.GenerateResponse, None]:
        for response in before:
            yield response
        await asyncio.sleep(seconds)
        for message in messages(text):
            yield message

    return script


@dataclass
class ScriptedOrchestrator:
    """Stands in for the client."""

    script: Script = field(default_factory=lambda: says("Hello, world."))
    has_reasoning: bool = True
    is_away: bool = False
    requests: list[pb.GenerateRequest] = field(default_factory=list)
    api_keys: list[str | None] = field(default_factory=list)
    num_running: int = 0

    async def generate(
        self, request: pb.GenerateRequest, *, timeout_s: float | None = None, api_key: str | None = None
    ) -> AsyncGenerator[pb.GenerateResponse, None]:
        self.api_keys.append(api_key)
        self.requests.append(request)
        self.num_running += 1
        try:
            async for response in self.script(request):
                yield response
        finally:
            self.num_running -= 1

    async def server_info(self) -> pb.OrchestratorServiceGetServerInfoResponse:
        if self.is_away:
            raise CallFailed(grpc.StatusCode.UNAVAILABLE, "nobody listens at 10.0.0.1:1", kind="Unreachable")
        return pb.OrchestratorServiceGetServerInfoResponse(
            slm=common_pb2.ModelInfo(model_id="org/small"),
            llm=common_pb2.ModelInfo(model_id="/models/large"),
            context_length=1024,
            chat_template=pb.ChatTemplate(exists=True, takes_tools=True, has_reasoning=self.has_reasoning),
        )


MODEL = "small+large"
QUESTION: dict[str, Any] = {"messages": [{"role": "user", "content": "Well?"}]}


@dataclass
class RunningGateway:
    """A gateway that runs, and a client of it."""

    http: httpx.AsyncClient
    orchestrator: ScriptedOrchestrator
    gateway: Gateway
    port: int


@asynccontextmanager
async def serving(orchestrator: ScriptedOrchestrator | None = None, **settings: Any) -> AsyncIterator[RunningGateway]:
    orchestrator = orchestrator or ScriptedOrchestrator()
    chosen = GatewaySettings(orchestrator=("none:1",), **settings)
    counts, telemetry = Counts(), Telemetry("trivium.gateway", "test")
    instrument(telemetry, counts)
    watch = PairWatch(orchestrator, chosen.model_name)
    gateway = Gateway(chosen, orchestrator, watch, Door(counts), counts, telemetry)
    listener = listening_socket("127.0.0.1", 0)
    port = listener.getsockname()[1]
    tls = RenewingContext(chosen.https_files) if chosen.https_files else None
    server = create_server(create_app(gateway), header_timeout_s=chosen.header_timeout_s, tls=tls)
    task = asyncio.create_task(server.serve([listener]))
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as http:
            yield RunningGateway(http, orchestrator, gateway, port)
    finally:
        server.should_exit = True
        await task
        telemetry.close()
