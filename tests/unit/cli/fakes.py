"""Servers that answer what a test tells them to, behind the production servicers' interfaces."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NoReturn

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
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

from services.common.serving.channels import server_options
from services.common.serving.tls import TlsFiles, server_credentials

SLM = common_pb2.ModelInfo(
    model_id="tiny/slm", vocab_size=768, hidden_size=48, tokenizer_sha256="aa" * 32, num_parameters=98_000
)
LLM = common_pb2.ModelInfo(
    model_id="tiny/llm", vocab_size=768, hidden_size=256, tokenizer_sha256="aa" * 32, num_parameters=3_010_000
)
ROUTER = router_pb2.RouterInfo(
    checkpoint="tiny/router", vocab_size=768, hidden_size=48, tokenizer_sha256="aa" * 32, slm_model_id="tiny/slm"
)


def delta(
    text: str, source: orchestrator_pb2.TokenSource.ValueType, token_id: int = 7
) -> orchestrator_pb2.GenerateResponse:
    return orchestrator_pb2.GenerateResponse(
        text=text, token_ids=[token_id], sources=[source], divergence_probabilities=[0.25], text_lengths=[len(text)]
    )


def finish(num_tokens: int, num_llm_tokens: int = 0) -> orchestrator_pb2.GenerateResponse:
    usage = orchestrator_pb2.Usage(
        num_prompt_tokens=5,
        num_completion_tokens=num_tokens,
        num_llm_tokens=num_llm_tokens,
        llm_usage_rate=num_llm_tokens / num_tokens,
        avg_activated_params_b=0.0003,
    )
    return orchestrator_pb2.GenerateResponse(
        finish=orchestrator_pb2.Finish(reason=orchestrator_pb2.FINISH_REASON_STOP, usage=usage)
    )


ANSWER = (
    delta("So ", orchestrator_pb2.TOKEN_SOURCE_SLM),
    delta("four", orchestrator_pb2.TOKEN_SOURCE_LLM, token_id=9),
    delta(".", orchestrator_pb2.TOKEN_SOURCE_SLM),
    finish(3, 1),
)


@dataclass
class FakeOrchestrator(orchestrator_pb2_grpc.OrchestratorServiceServicer):
    """Streams `answer`, then ends with `status` if that isn't OK, or not before the client does if it `hangs`.

    It is lost `num_losses` times before, for the first time after one message; each message has one token.
    """

    answer: Sequence[orchestrator_pb2.GenerateResponse] = ANSWER
    status: grpc.StatusCode = grpc.StatusCode.OK
    details: str = ""
    slm: common_pb2.ModelInfo = field(default_factory=lambda: SLM)
    router: router_pb2.RouterInfo | None = field(default_factory=lambda: ROUTER)
    load: orchestrator_pb2.OrchestratorLoad = field(default_factory=orchestrator_pb2.OrchestratorLoad)
    hangs: bool = False
    num_losses: int = 0
    context_len: int = 0
    requests: list[orchestrator_pb2.GenerateRequest] = field(default_factory=list)
    keys: list[str | bytes | None] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    def Generate(
        self, request: orchestrator_pb2.GenerateRequest, context: grpc.ServicerContext
    ) -> Iterator[orchestrator_pb2.GenerateResponse]:
        # First of all: who has left by the second message isn't asked for a third.
        if not context.add_callback(self.ended.set):
            self.ended.set()
        self.requests.append(request)
        self._note_key(context)
        if len(self.requests) == 1 and self.num_losses:
            yield self.answer[0]
        if len(self.requests) <= self.num_losses:
            context.abort(grpc.StatusCode.UNAVAILABLE, "away")
        yield from self.answer[request.resume_from :]
        if self.hangs:
            self.ended.wait()
        if self.status is not grpc.StatusCode.OK:
            context.abort(self.status, self.details)

    def _note_key(self, context: grpc.ServicerContext) -> None:
        self.keys.append(dict(context.invocation_metadata()).get("authorization"))

    def GetServerInfo(
        self, request: orchestrator_pb2.OrchestratorServiceGetServerInfoRequest, context: grpc.ServicerContext
    ) -> orchestrator_pb2.OrchestratorServiceGetServerInfoResponse:
        self._note_key(context)
        return orchestrator_pb2.OrchestratorServiceGetServerInfoResponse(
            slm=self.slm, llm=LLM, router=self.router, load=self.load, context_length=self.context_len
        )

    def Cancel(self, request: orchestrator_pb2.CancelRequest, context: grpc.ServicerContext) -> NoReturn:
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "no test cancels")


@dataclass
class FakeSlm(slm_pb2_grpc.SlmServiceServicer):
    model: common_pb2.ModelInfo
    load: common_pb2.EngineLoad = field(default_factory=common_pb2.EngineLoad)

    def GetServerInfo(
        self, request: slm_pb2.SlmServiceGetServerInfoRequest, context: grpc.ServicerContext
    ) -> slm_pb2.SlmServiceGetServerInfoResponse:
        return slm_pb2.SlmServiceGetServerInfoResponse(model=self.model, load=self.load)

    def Draft(self, request_iterator: Iterator[slm_pb2.DraftRequest], context: grpc.ServicerContext) -> NoReturn:
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "no test streams")


@dataclass
class FakeLlm(llm_pb2_grpc.LlmServiceServicer):
    model: common_pb2.ModelInfo

    def GetServerInfo(
        self, request: llm_pb2.LlmServiceGetServerInfoRequest, context: grpc.ServicerContext
    ) -> llm_pb2.LlmServiceGetServerInfoResponse:
        return llm_pb2.LlmServiceGetServerInfoResponse(model=self.model)

    def Extend(self, request_iterator: Iterator[llm_pb2.ExtendRequest], context: grpc.ServicerContext) -> NoReturn:
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "no test streams")


@dataclass
class FakeRouter(router_pb2_grpc.RouterServiceServicer):
    router: router_pb2.RouterInfo

    def GetServerInfo(
        self, request: router_pb2.RouterServiceGetServerInfoRequest, context: grpc.ServicerContext
    ) -> router_pb2.RouterServiceGetServerInfoResponse:
        return router_pb2.RouterServiceGetServerInfoResponse(router=self.router)

    def Score(self, request_iterator: Iterator[router_pb2.ScoreRequest], context: grpc.ServicerContext) -> NoReturn:
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "no test streams")


@contextmanager
def serving(
    register: Callable[[grpc.Server], None], *, healthy: bool = True, tls: TlsFiles | None = None
) -> Iterator[str]:
    """Serves on a free port of loopback for the length of a `with` block; yields "host:port"."""
    server = grpc.server(ThreadPoolExecutor(4), options=server_options())
    register(server)
    statuses = health_pb2.HealthCheckResponse
    servicer = health.HealthServicer()
    servicer.set("", statuses.SERVING if healthy else statuses.NOT_SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    address = "127.0.0.1:0"
    port = server.add_secure_port(address, server_credentials(tls)) if tls else server.add_insecure_port(address)
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


@contextmanager
def serving_orchestrator(orchestrator: FakeOrchestrator, tls: TlsFiles | None = None) -> Iterator[str]:
    def register(server: grpc.Server) -> None:
        orchestrator_pb2_grpc.add_OrchestratorServiceServicer_to_server(orchestrator, server)

    with serving(register, tls=tls) as address:
        yield address
