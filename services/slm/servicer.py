"""Serves an SLM engine to many streams.

Owns which stream gets which draft, and when. What a command does to a sequence is the engine's.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import numpy as np
from trivium.v1 import slm_pb2, slm_pb2_grpc

from services.common.errors import PrefixNotFound, TriviumError
from services.common.serving.duplex import Outbox
from services.common.serving.lifecycle import Lifecycle
from services.common.serving.telemetry import Telemetry
from services.common.tensors import pack
from services.common.weights import model_revision
from services.engines.base import DraftStep, Refusal, SlmEngine
from services.model_service import wire
from services.model_service.heartbeats import HEARTBEAT_S
from services.model_service.servicer import ModelServicer, num_held_up
from services.slm.pacing import DraftPacer, join_steps, select_rows

SERVICE_NAME = slm_pb2.DESCRIPTOR.services_by_name["SlmService"].full_name

_Stream = Outbox[slm_pb2.DraftResponse]


class SlmServicer(ModelServicer[SlmEngine, slm_pb2.DraftResponse], slm_pb2_grpc.SlmServiceServicer):
    """Multiplexes the sequences of all streams onto one engine.

    Args:
        create_engine: Makes the engine; called on a thread, since it may import for seconds.
        lifecycle: The state of this process.
        max_pending_bytes: Most bytes of drafts that may wait for a slow reader, per stream.
        hold_s: Longest that drafts wait for the next ones to share a message, in seconds.
        heartbeat_s: How long a stream that waits for drafts is sent nothing while passes go on, in seconds.
    """

    def __init__(
        self,
        create_engine: Callable[[], SlmEngine],
        lifecycle: Lifecycle,
        *,
        max_pending_bytes: int = 64 * 2**20,
        hold_s: float = 0.0,
        heartbeat_s: float = HEARTBEAT_S,
    ) -> None:
        super().__init__(
            create_engine,
            lifecycle,
            slm_pb2.DraftResponse,
            max_pending_bytes=max_pending_bytes,
            heartbeat_s=heartbeat_s,
        )
        self._weights_revision = ""
        self._pacer = DraftPacer(hold_s)
        self._held: list[DraftStep] = []
        self._sending: asyncio.TimerHandle | None = None

    def register(self, server: grpc.aio.Server) -> None:
        """Adds this servicer to a server."""
        slm_pb2_grpc.add_SlmServiceServicer_to_server(self, server)

    async def start(self) -> None:
        """Loads the model, warms it up, and finds out which weights it has: a router belongs to one SLM's."""
        await super().start()
        info = self._engine.info
        self._weights_revision = await asyncio.to_thread(model_revision, info.model_id, info.revision)

    async def run(self) -> None:
        """Steps the engine for as long as the process lives."""
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            step = self._usable(await self._engine.step())
            self._held.append(step)
            if not self._pacer.drafted(step, loop.time() - began):
                self._send_held()
            elif self._sending is None:
                self._sending = loop.call_later(self._pacer.hold_s, self._send_held)
            # Lets the writers take the drafts before the next forward competes with them for the processor.
            await asyncio.sleep(0)

    def instrument(self, telemetry: Telemetry) -> None:
        """Adds the SLM's metrics."""
        pacer = self._pacer
        self._observe_engine(telemetry, "slm")
        telemetry.gauge(
            "trivium_slm_active_sequences",
            "Sequences that are being drafted; not those that wait for a decision about their drafts.",
            lambda: max(0, pacer.num_drafting - num_held_up(self._load)),
        )
        telemetry.counter("trivium_slm_drafts_total", "Tokens drafted.", lambda: pacer.num_drafts)
        telemetry.counter(
            "trivium_slm_drafts_rewound_total",
            "Drafts that were taken back, since the LLM wrote another token there or before.",
            lambda: pacer.num_drafts_rewound,
        )

    async def GetServerInfo(
        self,
        request: slm_pb2.SlmServiceGetServerInfoRequest,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> slm_pb2.SlmServiceGetServerInfoResponse:
        """Describes the model, the process and its load."""
        return slm_pb2.SlmServiceGetServerInfoResponse(
            model=wire.model_info(self._engine.info, self._weights_revision),
            replica=self._lifecycle.replica_info(),
            load=wire.engine_load(self._engine.load),
        )

    # grpc.aio also takes a coroutine that writes; the stub's type knows only iterators.
    async def Draft(  # type: ignore[override]
        self,
        request_iterator: AsyncIterator[slm_pb2.DraftRequest],
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> None:
        """Serves one stream until its client ends it."""
        await self._serve(request_iterator, context)

    def _carry_out(self, stream: _Stream, sequence_id: int, kind: str, command: Any) -> None:
        if kind == "open":
            self._open(stream, sequence_id, command)
        elif kind == "rewind":
            self._rewind(stream, sequence_id, command)
        elif kind == "grant":
            self._grant(stream, sequence_id, command)
        else:
            self._free_if_owned(stream, sequence_id)

    def _after_error(self, stream: _Stream, sequence_id: int) -> None:
        self._free_if_owned(stream, sequence_id)

    def _has_work(self, sequence_id: int) -> bool:
        return self._pacer.is_drafting(sequence_id)

    def _free(self, sequence_id: int) -> None:
        self._pacer.closed(sequence_id)
        self._engine.close(sequence_id)

    def _open(self, stream: _Stream, sequence_id: int, command: slm_pb2.OpenSequence) -> None:
        self._owners.refuse_foreign(sequence_id, stream)
        if self._lifecycle.draining:
            raise self._draining()
        self._engine.open(
            sequence_id,
            list(command.token_ids),
            epoch=command.epoch,
            draft_until=command.draft_until,
            stop_token_ids=frozenset(command.stop_token_ids),
            sampling=wire.sampling_params(command.sampling if command.HasField("sampling") else None),
            priority=command.priority,
        )
        self._pacer.opened(
            sequence_id,
            len(command.token_ids),
            self._window_end(command.draft_until),
            frozenset(command.stop_token_ids),
        )
        self._owners.claim(sequence_id, stream)

    def _rewind(self, stream: _Stream, sequence_id: int, command: slm_pb2.RewindSequence) -> None:
        if self._owners.get(sequence_id) is not stream:
            raise PrefixNotFound(f"sequence_id: {sequence_id} is not open on this stream")
        self._engine.rewind(
            sequence_id,
            length=command.length,
            token_ids=list(command.token_ids),
            epoch=command.epoch,
            draft_until=command.draft_until,
        )
        prefix_len = command.length + len(command.token_ids)
        self._pacer.rewound(sequence_id, command.length, prefix_len, self._window_end(command.draft_until))

    def _grant(self, stream: _Stream, sequence_id: int, command: slm_pb2.GrantDraft) -> None:
        if self._owners.get(sequence_id) is stream:
            self._engine.grant(sequence_id, draft_until=command.draft_until)
            self._pacer.granted(sequence_id, self._window_end(command.draft_until))

    def _usable(self, step: DraftStep) -> DraftStep:
        """Refuses sequences whose features aren't finite: a router would refuse the whole step batch for them."""
        finite = np.isfinite(step.hidden_states).all(axis=1) & np.isfinite(step.top_logits).all(axis=1)
        if finite.all():
            return step
        for row in np.flatnonzero(~finite):
            sequence_id = step.sequence_ids[row]
            error = TriviumError(f"hidden_states, top_logits: not finite for the token at {step.positions[row]}")
            step.refusals.append(Refusal(sequence_id, error))
            self._engine.close(sequence_id)
        return select_rows(step, np.flatnonzero(finite))

    def _window_end(self, draft_until: int) -> int:
        return min(draft_until, self._engine.info.context_len)

    def _send_held(self) -> None:
        if self._sending is not None:
            self._sending.cancel()
            self._sending = None
        steps, self._held = self._held, []
        self._deliver(join_steps(steps))

    def _deliver(self, step: DraftStep) -> None:
        responses: dict[_Stream, slm_pb2.DraftResponse] = {}
        for owner, rows in self._rows_by_stream(step).items():
            responses[owner] = _response(step, rows)
        for opened in step.opened:
            if stream := self._owners.get(opened.sequence_id):
                responses.setdefault(stream, slm_pb2.DraftResponse()).opened.add(
                    sequence_id=opened.sequence_id,
                    num_tokens_reused=opened.num_tokens_reused,
                    num_tokens_prefilled=opened.num_tokens_prefilled,
                )
        for refusal in step.refusals:
            self._pacer.closed(refusal.sequence_id)
            if stream := self._owners.forget(refusal.sequence_id):
                error = wire.sequence_error(refusal.sequence_id, refusal.error)
                responses.setdefault(stream, slm_pb2.DraftResponse()).errors.append(error)
        self._send(responses, step)

    def _rows_by_stream(self, step: DraftStep) -> dict[_Stream, list[int]]:
        rows: dict[_Stream, list[int]] = {}
        for row, sequence_id in enumerate(step.sequence_ids):
            # A sequence may have been closed while the step ran.
            if stream := self._owners.get(sequence_id):
                rows.setdefault(stream, []).append(row)
        return rows


def _response(step: DraftStep, rows: list[int]) -> slm_pb2.DraftResponse:
    if len(rows) < len(step.sequence_ids):
        step = select_rows(step, rows)
    return slm_pb2.DraftResponse(
        sequence_ids=step.sequence_ids,
        positions=step.positions,
        epochs=step.epochs,
        token_ids=step.token_ids,
        hidden_states=pack(step.hidden_states),
        top_logits=pack(step.top_logits),
    )
