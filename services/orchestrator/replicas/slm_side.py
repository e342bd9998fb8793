"""The orchestrator's side of the streams to the SLM replicas.

Owns the way of drafts from an SLM to the router.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import grpc
from trivium.v1 import slm_pb2, slm_pb2_grpc

from services.common.errors import PeerUnavailable
from services.orchestrator.replicas.link import Link
from services.orchestrator.replicas.model_side import ModelSide, step_batches
from services.orchestrator.replicas.pair_gate import PairGate, refuse_draining
from services.orchestrator.replicas.router_side import RouterSide, ScoredRow
from services.orchestrator.requests.sequence import RunningSequence

SlmInfo = slm_pb2.SlmServiceGetServerInfoResponse
SlmLink = Link[slm_pb2.DraftCommand, slm_pb2.DraftResponse, SlmInfo]


class SlmSide(ModelSide[slm_pb2.DraftCommand, slm_pb2.DraftResponse, SlmInfo]):
    """Drafts for all sequences.

    Args:
        sequences: All running sequences, by id; shared with the driver.
        gate: Checks replicas.
        router: Where drafts go.
        on_gone: Called with the id of a replica whose stream is lost.
        draw: Where chance comes from.
    """

    def __init__(
        self,
        sequences: Mapping[int, RunningSequence],
        gate: PairGate,
        router: RouterSide,
        *,
        on_gone: Callable[[str], None],
        draw: random.Random,
    ) -> None:
        super().__init__(sequences, gate, on_gone=on_gone, draw=draw)
        self._router = router

    async def describe(self, channel: grpc.aio.Channel) -> SlmInfo:
        """Asks a replica what it is."""
        return await slm_pb2_grpc.SlmServiceStub(channel).GetServerInfo(slm_pb2.SlmServiceGetServerInfoRequest())

    async def check(self, info: SlmInfo) -> None:
        """Checks that a replica belongs to the pair."""
        refuse_draining(info.replica)
        await self._gate.enter(partial(self._gate.admit_slm, info.model))

    def open(
        self, channel: grpc.aio.Channel
    ) -> grpc.aio.StreamStreamCall[slm_pb2.DraftRequest, slm_pb2.DraftResponse]:
        """Opens the stream."""
        return slm_pb2_grpc.SlmServiceStub(channel).Draft()

    def pack(self, commands: Sequence[slm_pb2.DraftCommand]) -> list[slm_pb2.DraftRequest]:
        """Sends all commands as one step batch."""
        return [slm_pb2.DraftRequest(commands=batch) for batch in step_batches(commands)]

    def on_response(self, link: SlmLink, response: slm_pb2.DraftResponse) -> None:
        """Takes a step batch: what is current goes to the router."""
        link.report(num_others=response.num_other_sequences, num_waiting=response.num_waiting_sequences)
        for opened in response.opened:
            if sequence := self._find(opened.sequence_id, link):
                counts = sequence.slm_prefill
                counts.num_reused = counts.num_reused or opened.num_tokens_reused
                counts.num_prefilled += opened.num_tokens_prefilled
        for error in response.errors:
            if sequence := self._find(error.sequence_id, link):
                self._refused(link, sequence, error.code, error.message)
        saturated = response.num_waiting_sequences > 0
        rows: list[ScoredRow | None] = []
        columns = (response.sequence_ids, response.positions, response.token_ids, response.epochs)
        if len({len(column) for column in columns}) > 1:
            raise PeerUnavailable("slm: sequence_ids, positions, token_ids and epochs of a step differ in length")
        for sequence_id, position, token_id, epoch in zip(*columns, strict=True):
            row = None
            if sequence := self._find(sequence_id, link):
                sequence.core.slm_saturation(saturated)
                if sequence.core.drafted(position, token_id, epoch):
                    row = ScoredRow(sequence, position, epoch)
            rows.append(row)
        self._router.score(rows, response)

    def _identity(self, info: SlmInfo) -> tuple[str, int]:
        return info.replica.replica_id, info.model.context_length

    def _held_prefixes(self, sequence: RunningSequence) -> Mapping[str, int]:
        return sequence.hits.slm

    def _link_of(self, sequence: RunningSequence) -> SlmLink | None:
        return sequence.slm

    def _place(self, sequence: RunningSequence, link: SlmLink) -> None:
        sequence.slm = link
        sequence.apply(sequence.core.slm_ready())

    def _displace(self, sequence: RunningSequence) -> None:
        sequence.slm = None
        sequence.apply(sequence.core.slm_lost())

    def _release_command(self, sequence: RunningSequence) -> slm_pb2.DraftCommand:
        return slm_pb2.DraftCommand(sequence_id=sequence.sequence_id, close=slm_pb2.CloseSequence())
