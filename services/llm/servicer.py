"""Serves an LLM engine to many streams.

Owns which stream gets which answer, and the release of sequences with their stream. What an extension means is the
engine's.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import grpc
from trivium.v1 import llm_pb2, llm_pb2_grpc

from services.common.duplex import Outbox, run_duplex
from services.common.errors import Draining, InvalidRequest, TriviumError
from services.common.lifecycle import Lifecycle
from services.common.owners import SequenceOwners
from services.engines import wire
from services.engines.base import Answer, Extension, LlmEngine, Refusal

SERVICE_NAME = llm_pb2.DESCRIPTOR.services_by_name["LlmService"].full_name

_Stream = Outbox[llm_pb2.ExtendResponse]


class LlmServicer(llm_pb2_grpc.LlmServiceServicer):
    """Multiplexes the sequences of all streams onto one engine.

    Args:
        create_engine: Makes the engine; called on a thread, since it may import for seconds.
        lifecycle: The state of this process.
        max_pending_bytes: Most bytes of answers that may wait for a slow reader, per stream.
    """

    def __init__(
        self,
        create_engine: Callable[[], LlmEngine],
        lifecycle: Lifecycle,
        *,
        max_pending_bytes: int = 64 * 2**20,
    ) -> None:
        self._create_engine = create_engine
        self._engine: LlmEngine
        self._started = False
        self._lifecycle = lifecycle
        self._max_pending_bytes = max_pending_bytes
        self._owners: SequenceOwners[_Stream] = SequenceOwners()
        self._streams: set[_Stream] = set()

    def register(self, server: grpc.aio.Server) -> None:
        """Adds this servicer to a server."""
        llm_pb2_grpc.add_LlmServiceServicer_to_server(self, server)

    async def start(self) -> None:
        """Loads the model and warms it up."""
        self._engine = await asyncio.to_thread(self._create_engine)
        self._started = True
        await self._engine.start()

    async def run(self) -> None:
        """Steps the engine for as long as the process lives."""
        while True:
            answers, refusals = await self._engine.step()
            self._deliver(answers, refusals)
            # Lets the writers take the answers before the next forward competes with them for the processor.
            await asyncio.sleep(0)

    async def drain(self) -> None:
        """Waits until every sequence was released by its caller, then ends the streams."""
        await self._owners.idle.wait()
        for stream in self._streams:
            stream.finish(Draining(f"{SERVICE_NAME} is about to stop"))

    async def stop(self) -> None:
        """Frees the model."""
        if self._started:
            await self._engine.stop()

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
        stream = _Stream(self._max_pending_bytes)
        self._streams.add(stream)
        try:
            await run_duplex(request_iterator, context, stream, partial(self._apply, stream), stream.finish)
        finally:
            self._streams.remove(stream)
            for sequence_id in self._owners.of(stream):
                self._release(stream, sequence_id)

    async def _apply(self, stream: _Stream, request: llm_pb2.ExtendRequest) -> None:
        response = llm_pb2.ExtendResponse()
        for index, command in enumerate(request.commands):
            sequence_id, kind = command.sequence_id, command.WhichOneof("command")
            if not sequence_id:
                raise InvalidRequest(f"commands[{index}].sequence_id: must be set and not 0")
            if kind is None:
                raise InvalidRequest(f"commands[{index}].command: one must be set")
            if kind == "release":
                self._release(stream, sequence_id)
                continue
            try:
                self._extend(stream, sequence_id, command.extend)
            except TriviumError as error:
                # The engine changed nothing: what it held before, it holds now, and the caller resends.
                response.errors.append(wire.sequence_error(sequence_id, error))
        if response.errors:
            stream.put(response)

    def _extend(self, stream: _Stream, sequence_id: int, command: llm_pb2.ExtendSequence) -> None:
        self._owners.refuse_foreign(sequence_id, stream)
        if self._lifecycle.draining and self._owners.get(sequence_id) is None:
            raise Draining(f"{SERVICE_NAME} is about to stop")
        self._engine.extend(
            Extension(
                sequence_id=sequence_id,
                base_len=command.base_length,
                token_ids=list(command.token_ids),
                query_positions=list(command.query_positions),
                pass_id=command.pass_id,
                sampling=wire.sampling_params(command.sampling if command.HasField("sampling") else None),
            )
        )
        self._owners.claim(sequence_id, stream)

    def _release(self, stream: _Stream, sequence_id: int) -> None:
        if self._owners.get(sequence_id) is stream:
            self._owners.forget(sequence_id)
            self._engine.release(sequence_id)

    def _deliver(self, answers: list[Answer], refusals: list[Refusal]) -> None:
        responses: dict[_Stream, llm_pb2.ExtendResponse] = {}
        for answer in answers:
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
            if stream := self._owners.forget(refusal.sequence_id):
                error = wire.sequence_error(refusal.sequence_id, refusal.error)
                responses.setdefault(stream, llm_pb2.ExtendResponse()).errors.append(error)
        for owner, response in responses.items():
            owner.put(response)
