"""The orchestrator's side of the streams to the SLM replicas.

Owns the way of drafts from an SLM to what scores them, and the messages to and from an SLM.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import grpc
from trivium.v1 import slm_pb2, slm_pb2_grpc

from services.common.errors import PeerUnavailable
from services.orchestrator.pair.gate import PairGate, refuse_draining
from services.orchestrator.replicas.draft_scores import DraftScores
from services.orchestrator.replicas.link import Link, LinkPeer
from services.orchestrator.replicas.link_set import LinkSet
from services.orchestrator.replicas.model_side import LinkSeat, ModelSide, sampling_message, step_batches
from services.orchestrator.replicas.scored_row import DraftRow, ScoredRow
from services.orchestrator.routing.actions import GrantSlm, OpenSlm, RewindSlm
from services.orchestrator.routing.core import RoutingCore
from services.orchestrator.sequences.running import RunningSequences
from services.orchestrator.sequences.sequence import ReplicaAction, RunningSequence

SlmInfo = slm_pb2.SlmServiceGetServerInfoResponse
SlmLink = Link[slm_pb2.DraftCommand, slm_pb2.DraftResponse, SlmInfo]


class SlmSide(ModelSide[slm_pb2.DraftCommand, slm_pb2.DraftResponse, SlmInfo]):
    """Drafts for all sequences.

    Args:
        running: All running sequences.
        gate: Checks replicas.
        scores: Where drafts go.
        make_links: Makes the links that this side is the peer of.
        on_gone: Called with the id of a replica whose stream is lost.
        draw: Where chance comes from.
        grace_s: Seconds without a replica until sequences end with UNAVAILABLE.
    """

    def __init__(
        self,
        running: RunningSequences,
        gate: PairGate,
        scores: DraftScores,
        *,
        make_links: Callable[
            [LinkPeer[slm_pb2.DraftCommand, slm_pb2.DraftResponse, SlmInfo]],
            LinkSet[slm_pb2.DraftCommand, slm_pb2.DraftResponse, SlmInfo],
        ],
        on_gone: Callable[[str], None],
        draw: random.Random,
        grace_s: float,
    ) -> None:
        super().__init__(running, gate, make_links=make_links, on_gone=on_gone, draw=draw, grace_s=grace_s)
        self._scores = scores

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
        """Takes a step batch: what is current gets its score."""
        num_waiting = response.num_waiting_sequences + response.num_sequences_without_room
        link.report(num_others=response.num_other_sequences, num_waiting=num_waiting)
        for opened in response.opened:
            if sequence := self._find(opened.sequence_id, link):
                sequence.slm_prefill.add(opened.num_tokens_reused, opened.num_tokens_prefilled)
        for error in response.errors:
            if sequence := self._find(error.sequence_id, link):
                self._on_refusal(link, sequence, error.code, error.message)
        saturated = response.num_waiting_sequences > 0
        rows: list[DraftRow | None] = []
        shadow_rows: list[DraftRow | None] = []
        columns = (response.sequence_ids, response.positions, response.token_ids, response.epochs)
        if len({len(column) for column in columns}) > 1:
            raise PeerUnavailable("slm: sequence_ids, positions, token_ids and epochs of a step differ in length")
        for index, (sequence_id, position, token_id, epoch) in enumerate(zip(*columns, strict=True)):
            row = shadow_row = None
            if sequence := self._find(sequence_id, link):
                sequence.core.slm_saturation(saturated)
                if sequence.core.drafted(position, token_id, epoch):
                    row = ScoredRow(sequence, position, epoch)
                    shadow_row = sequence.shadow.drafted(position, token_id) if sequence.shadow else None
                    if sequence.sample:
                        sequence.sample.drafted(position, token_id, response, index)
            rows.append(row)
            shadow_rows.append(shadow_row)
        self._scores.score(rows, response)
        if any(shadow_rows):
            self._scores.score(shadow_rows, response)

    def _identity(self, info: SlmInfo) -> tuple[str, int]:
        return info.replica.replica_id, info.model.context_length

    def _held_prefixes(self, sequence: RunningSequence) -> Mapping[str, int]:
        return sequence.hits.slm

    def _owes_answer(self, sequence: RunningSequence) -> bool:
        return sequence.core.awaits_draft

    def _go_without(self, sequence: RunningSequence) -> None:
        sequence.fail(PeerUnavailable(f"slm: no replica for {self.presence.grace_s:g} s"))

    def _take_seat(
        self, sequence: RunningSequence, seat: LinkSeat[slm_pb2.DraftCommand, slm_pb2.DraftResponse, SlmInfo]
    ) -> None:
        sequence.slm = seat
        sequence.react(RoutingCore.slm_ready)

    def _leave_seat(self, sequence: RunningSequence) -> None:
        sequence.slm = None
        sequence.react(RoutingCore.slm_lost)

    def _encode(self, sequence: RunningSequence, action: ReplicaAction) -> slm_pb2.DraftCommand:
        command = slm_pb2.DraftCommand(sequence_id=sequence.sequence_id)
        match action:
            case GrantSlm(draft_until):
                command.grant.draft_until = draft_until
            case RewindSlm(length, token_ids, epoch, draft_until):
                command.rewind.CopyFrom(
                    slm_pb2.RewindSequence(length=length, token_ids=token_ids, epoch=epoch, draft_until=draft_until)
                )
            case OpenSlm(token_ids, epoch, draft_until):
                command.open.CopyFrom(
                    slm_pb2.OpenSequence(
                        token_ids=token_ids,
                        epoch=epoch,
                        draft_until=draft_until,
                        stop_token_ids=sequence.eos_token_ids,
                        sampling=sampling_message(sequence),
                        priority=sequence.priority,
                    )
                )
            case _:
                raise TypeError(f"{type(action).__name__} isn't for an SLM")
        return command

    def _release_command(self, sequence: RunningSequence) -> slm_pb2.DraftCommand:
        return slm_pb2.DraftCommand(sequence_id=sequence.sequence_id, close=slm_pb2.CloseSequence())
