"""Serves an LLM engine to many streams.

Owns which stream gets which answer. What an extension means is the engine's.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
from trivium.v1 import llm_pb2, llm_pb2_grpc

from services.common.serving.duplex import Outbox
from services.common.serving.lifecycle import Lifecycle
from services.common.serving.telemetry import Telemetry
from services.engines.base import Answer, Extension, LlmEngine, Refusal
from services.llm.questions import Questions
from services.model_service import wire
from services.model_service.heartbeats import HEARTBEAT_S
from services.model_service.servicer import ModelServicer, num_held_up

SERVICE_NAME = llm_pb2.DESCRIPTOR.services_by_name["LlmService"].full_name

_Stream = Outbox[llm_pb2.ExtendResponse]


class LlmServicer(ModelServicer[LlmEngine, llm_pb2.ExtendResponse], llm_pb2_grpc.LlmServiceServicer):
    """Multiplexes the sequences of all streams onto one engine.

    Args:
        create_engine: Makes the engine; called on a thread, since it may import for seconds.
        lifecycle: The state of this process.
        max_pending_bytes: Most bytes of answers that may wait for a slow reader, per stream.
        heartbeat_s: How long a stream that waits for answers is sent nothing while passes go on, in seconds.
    """

    def __init__(
        self,
        create_engine: Callable[[], LlmEngine],
        lifecycle: Lifecycle,
        *,
        max_pending_bytes: int = 64 * 2**20,
        heartbeat_s: float = HEARTBEAT_S,
    ) -> None:
        super().__init__(
            create_engine,
            lifecycle,
            llm_pb2.ExtendResponse,
            max_pending_bytes=max_pending_bytes,
            heartbeat_s=heartbeat_s,
        )
        self._questions = Questions()
        self._took: Callable[[float], None] = lambda _seconds: None

    def register(self, server: grpc.aio.Server) -> None:
        """Adds this servicer to a server."""
        llm_pb2_grpc.add_LlmServiceServicer_to_server(self, server)

    async def run(self) -> None:
        """Steps the engine for as long as the process lives."""
        while True:
            answers, refusals = await self._engine.step()
            self._deliver(answers, refusals)
            # Lets the writers take the answers before the next forward competes with them for the processor.
            await asyncio.sleep(0)

    def instrument(self, telemetry: Telemetry) -> None:
        """Adds the LLM's metrics."""
        questions = self._questions
        self._observe_engine(telemetry, "llm")
        telemetry.gauge(
            "trivium_llm_active_sequences",
            "Sequences with a question that is being answered; not those whose KV is merely kept.",
            lambda: max(0, len(questions) - num_held_up(self._load)),
        )
        telemetry.gauge(
            "trivium_llm_waiting_query_positions",
            "Positions that wait for the LLM's token, those in the running pass included.",
            lambda: questions.num_positions,
        )
        telemetry.counter(
            "trivium_llm_positions_answered_total",
            "Positions at which the LLM said its token.",
            lambda: questions.num_positions_answered,
        )
        self._took = telemetry.durations(
            "trivium_llm_question_seconds", "Seconds from a question's arrival to its answer, the queue included."
        )

    async def GetServerInfo(
        self,
        request: llm_pb2.LlmServiceGetServerInfoRequest,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> llm_pb2.LlmServiceGetServerInfoResponse:
        """Describes the model, the process and its load."""
        return llm_pb2.LlmServiceGetServerInfoResponse(
            model=wire.model_info(self._engine.info),
            replica=self._lifecycle.replica_info(),
            load=wire.engine_load(self._engine.load),
        )

    # grpc.aio also takes a coroutine that writes; the stub's type knows only iterators.
    async def Extend(  # type: ignore[override]
        self,
        request_iterator: AsyncIterator[llm_pb2.ExtendRequest],
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> None:
        """Serves one stream until its client ends it."""
        await self._serve(request_iterator, context)

    def _carry_out(self, stream: _Stream, sequence_id: int, kind: str, command: Any) -> None:
        if kind == "extend":
            self._extend(stream, sequence_id, command)
        else:
            self._free_if_owned(stream, sequence_id)

    def _after_error(self, stream: _Stream, sequence_id: int) -> None:
        # The engine leaves the sequence as it was, so the caller may resend from where the error says.
        pass

    def _has_work(self, sequence_id: int) -> bool:
        return sequence_id in self._questions

    def _free(self, sequence_id: int) -> None:
        self._questions.withdrawn(sequence_id)
        self._engine.release(sequence_id)

    def _extend(self, stream: _Stream, sequence_id: int, command: llm_pb2.ExtendSequence) -> None:
        self._owners.refuse_foreign(sequence_id, stream)
        if self._lifecycle.draining and self._owners.get(sequence_id) is None:
            raise self._draining()
        extension = Extension(
            sequence_id=sequence_id,
            base_len=command.base_length,
            token_ids=list(command.token_ids),
            query_positions=list(command.query_positions),
            pass_id=command.pass_id,
            sampling=wire.sampling_params(command.sampling if command.HasField("sampling") else None),
            priority=command.priority,
        )
        self._engine.extend(extension)
        num_positions = len(extension.query_positions)
        self._questions.asked(sequence_id, extension.pass_id, num_positions, time.monotonic())
        self._owners.claim(sequence_id, stream)

    def _deliver(self, answers: list[Answer], refusals: list[Refusal]) -> None:
        responses: dict[_Stream, llm_pb2.ExtendResponse] = {}
        now = time.monotonic()
        for answer in answers:
            seconds = self._questions.answered(answer.sequence_id, answer.pass_id, now)
            if seconds is not None:
                self._took(seconds)
            # A sequence may have been released while the step ran.
            if stream := self._owners.get(answer.sequence_id):
                responses.setdefault(stream, llm_pb2.ExtendResponse()).answers.add(
                    sequence_id=answer.sequence_id,
                    pass_id=answer.pass_id,
                    token_ids=answer.token_ids,
                    num_tokens_reused=answer.num_tokens_reused,
                    num_tokens_prefilled=answer.num_tokens_prefilled,
                )
        for refusal in refusals:
            self._questions.withdrawn(refusal.sequence_id)
            if stream := self._owners.forget(refusal.sequence_id):
                error = wire.sequence_error(refusal.sequence_id, refusal.error)
                responses.setdefault(stream, llm_pb2.ExtendResponse()).errors.append(error)
        self._send(responses, self._load)
