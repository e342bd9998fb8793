"""What the services of both models have in common: one engine's life, and many streams of commands to it.

Owns the start, the drain and the end of the engine, which stream has which sequence, and the end of sequences with
their stream, and heartbeats. What a command means, and what else a stream is told, is the service's own.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

import grpc
from google.protobuf.message import Message
from trivium.v1 import common_pb2, llm_pb2, slm_pb2

from services.common.errors import Draining, InvalidRequest, TriviumError
from services.common.serving.duplex import Outbox, run_duplex
from services.common.serving.lifecycle import Lifecycle
from services.common.serving.telemetry import Telemetry
from services.engines.base import EngineLoad
from services.model_service import wire
from services.model_service.heartbeats import Heartbeats
from services.model_service.owners import SequenceOwners


class _Engine(Protocol):
    @property
    def load(self) -> EngineLoad: ...
    async def start(self) -> None: ...
    async def stop(self) -> None: ...


class _HeldUp(Protocol):
    @property
    def num_waiting_sequences(self) -> int: ...
    @property
    def num_sequences_without_room(self) -> int: ...


EngineT = TypeVar("EngineT", bound=_Engine)
ResponseT = TypeVar("ResponseT", slm_pb2.DraftResponse, llm_pb2.ExtendResponse)


def num_held_up(load: EngineLoad) -> int:
    """Sequences with work that weren't in the last pass."""
    return load.num_waiting_sequences + load.num_sequences_without_room


class ModelServicer(ABC, Generic[EngineT, ResponseT]):
    """Multiplexes the sequences of all streams onto one engine.

    Args:
        create_engine: Makes the engine; called on a thread, since it may import for seconds.
        lifecycle: The state of this process.
        response_type: The message to the client; its `errors` and its fields of load are filled here.
        max_pending_bytes: Most bytes of messages that may wait for a slow reader, per stream.
        heartbeat_s: How long a stream that waits for something is sent nothing while passes go on, in seconds.
    """

    def __init__(
        self,
        create_engine: Callable[[], EngineT],
        lifecycle: Lifecycle,
        response_type: Callable[..., ResponseT],
        *,
        max_pending_bytes: int,
        heartbeat_s: float,
    ) -> None:
        self._create_engine = create_engine
        self._engine: EngineT
        self._started = False
        self._lifecycle = lifecycle
        self._response_type: Callable[..., ResponseT] = response_type
        self._max_pending_bytes = max_pending_bytes
        self._owners: SequenceOwners[Outbox[ResponseT]] = SequenceOwners()
        self._heartbeats: Heartbeats[Outbox[ResponseT]] = Heartbeats(heartbeat_s)
        self._streams: set[Outbox[ResponseT]] = set()

    async def start(self) -> None:
        """Loads the model and warms it up."""
        self._engine = await asyncio.to_thread(self._create_engine)
        self._started = True
        await self._engine.start()

    async def drain(self) -> None:
        """Waits until every sequence was given up by its caller, then ends the streams."""
        await self._owners.idle.wait()
        for stream in self._streams:
            stream.finish(self._draining())

    async def stop(self) -> None:
        """Frees the model."""
        if self._started:
            await self._engine.stop()

    async def _serve(self, requests: AsyncIterator[Message], context: grpc.aio.ServicerContext[Any, Any]) -> None:
        """Serves one stream until its client ends it."""
        stream: Outbox[ResponseT] = Outbox(self._max_pending_bytes)
        self._streams.add(stream)
        self._heartbeats.told(stream, time.monotonic())
        try:
            await run_duplex(requests, context, stream, partial(self._apply, stream), stream.finish)
        finally:
            self._streams.remove(stream)
            self._heartbeats.ended(stream)
            for sequence_id in self._owners.of(stream):
                self._free_if_owned(stream, sequence_id)

    async def _apply(self, stream: Outbox[ResponseT], request: Any) -> None:
        errors: list[common_pb2.SequenceError] = []
        for index, command in enumerate(request.commands):
            sequence_id, kind = command.sequence_id, command.WhichOneof("command")
            if not sequence_id:
                raise InvalidRequest(f"commands[{index}].sequence_id: must be set and not 0")
            if kind is None:
                raise InvalidRequest(f"commands[{index}].command: one must be set")
            detail = getattr(command, kind)
            try:
                self._carry_out(stream, sequence_id, kind, detail)
            except TriviumError as error:
                self._after_error(stream, sequence_id)
                errors.append(wire.sequence_error(sequence_id, error, pass_id=getattr(detail, "pass_id", 0)))
        if errors:
            stream.put(self._response_type(errors=errors))

    def _send(self, responses: dict[Outbox[ResponseT], ResponseT], load: _HeldUp) -> None:
        """Sends what a completed step brought, and heartbeats where it brought nothing for too long.

        Args:
            responses: What the step brought, by stream.
            load: How many sequences the step left out, and why.
        """
        now = time.monotonic()
        for stream in self._heartbeats.due(now):
            if stream not in responses and self._has_any_work(stream):
                responses[stream] = self._response_type()
        for stream, response in responses.items():
            response.num_waiting_sequences = load.num_waiting_sequences
            response.num_sequences_without_room = load.num_sequences_without_room
            response.num_other_sequences = self._owners.num_of_others(stream)
            stream.put(response)
            self._heartbeats.told(stream, now)

    def _has_any_work(self, stream: Outbox[ResponseT]) -> bool:
        return any(self._has_work(sequence_id) for sequence_id in self._owners.of(stream))

    @property
    def _load(self) -> EngineLoad:
        """What the engine is doing; nothing before it is there."""
        return self._engine.load if self._started else EngineLoad()

    def _observe_engine(self, telemetry: Telemetry, model: str) -> None:
        """Adds the metrics that both models have; `model` is "slm" or "llm"."""
        prefix = f"trivium_{model}"
        telemetry.gauge(
            f"{prefix}_waiting_sequences",
            "Sequences with work that didn't fit into the last pass.",
            lambda: num_held_up(self._load),
        )
        telemetry.gauge(
            f"{prefix}_sequences_without_room",
            "Those of the waiting sequences for which there was no KV.",
            lambda: self._load.num_sequences_without_room,
        )
        telemetry.counter(
            f"{prefix}_preemptions_total",
            "Times that the KV of a sequence was taken for another one.",
            lambda: self._load.num_preemptions,
        )
        telemetry.gauge(
            f"{prefix}_open_sequences",
            "Sequences whose KV is kept, whether or not there is work for them.",
            lambda: self._load.num_active_sequences,
        )
        telemetry.gauge(
            f"{prefix}_kv_tokens_used", "KV cache in use, in tokens.", lambda: self._load.num_kv_tokens_used
        )
        telemetry.gauge(
            f"{prefix}_kv_tokens_capacity", "KV cache in all, in tokens.", lambda: self._load.num_kv_tokens_capacity
        )
        telemetry.counter(f"{prefix}_passes_total", "Forward passes.", lambda: self._load.num_steps)
        telemetry.counter(
            f"{prefix}_rows_total", "Sequences in all forward passes together.", lambda: self._load.num_rows
        )
        telemetry.counter(
            f"{prefix}_tokens_processed_total",
            "Tokens that were run through the model.",
            lambda: self._load.num_tokens_processed,
        )
        telemetry.counter(
            f"{prefix}_tokens_reused_total",
            "Tokens whose KV was found in the prefix cache.",
            lambda: self._load.num_tokens_reused,
        )

    def _free_if_owned(self, stream: Outbox[ResponseT], sequence_id: int) -> None:
        """Frees a sequence if the stream has it."""
        if self._owners.get(sequence_id) is stream:
            self._owners.forget(sequence_id)
            self._free(sequence_id)

    def _draining(self) -> Draining:
        return Draining(f"{self._lifecycle.service_name} is about to stop")

    @abstractmethod
    def _carry_out(self, stream: Outbox[ResponseT], sequence_id: int, kind: str, command: Any) -> None:
        """Does what a command says.

        Raises:
            TriviumError: It can't be done; the stream is told, and goes on.
        """

    @abstractmethod
    def _after_error(self, stream: Outbox[ResponseT], sequence_id: int) -> None:
        """Leaves the sequence as its caller expects it after a command about it that couldn't be carried out."""

    @abstractmethod
    def _has_work(self, sequence_id: int) -> bool:
        """Whether the caller waits for something about the sequence."""

    @abstractmethod
    def _free(self, sequence_id: int) -> None:
        """The sequence has no owner any more."""
