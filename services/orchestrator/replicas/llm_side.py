"""The orchestrator's side of the streams to the LLM replicas.

Owns the way of answers from an LLM to the routing core, the messages to and from an LLM, and what becomes of
sequences when no LLM is left.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import grpc
from trivium.v1 import llm_pb2, llm_pb2_grpc

from services.common.errors import PeerUnavailable
from services.orchestrator.pair.gate import refuse_draining
from services.orchestrator.replicas.link import Link
from services.orchestrator.replicas.model_side import LinkSeat, ModelSide, sampling_message, step_batches
from services.orchestrator.requests.task import LlmLossPolicy
from services.orchestrator.routing.actions import AskLlm
from services.orchestrator.routing.core import RoutingCore
from services.orchestrator.sequences.sequence import ReplicaAction, RunningSequence

LlmInfo = llm_pb2.LlmServiceGetServerInfoResponse
LlmLink = Link[llm_pb2.ExtendCommand, llm_pb2.ExtendResponse, LlmInfo]


class LlmSide(ModelSide[llm_pb2.ExtendCommand, llm_pb2.ExtendResponse, LlmInfo]):
    """Answers for all sequences.

    The LLM is gone once no replica has taken sequences for the time of grace, and back with the next one that is
    ready. What a sequence without a replica does in between, its request says.
    """

    async def describe(self, channel: grpc.aio.Channel) -> LlmInfo:
        """Asks a replica what it is."""
        return await llm_pb2_grpc.LlmServiceStub(channel).GetServerInfo(llm_pb2.LlmServiceGetServerInfoRequest())

    async def check(self, info: LlmInfo) -> None:
        """Checks that a replica belongs to the pair."""
        refuse_draining(info.replica)
        await self._gate.enter(partial(self._gate.admit_llm, info.model))

    def open(
        self, channel: grpc.aio.Channel
    ) -> grpc.aio.StreamStreamCall[llm_pb2.ExtendRequest, llm_pb2.ExtendResponse]:
        """Opens the stream."""
        return llm_pb2_grpc.LlmServiceStub(channel).Extend()

    def pack(self, commands: Sequence[llm_pb2.ExtendCommand]) -> list[llm_pb2.ExtendRequest]:
        """Sends all commands as one step batch."""
        return [llm_pb2.ExtendRequest(commands=batch) for batch in step_batches(commands)]

    def on_response(self, link: LlmLink, response: llm_pb2.ExtendResponse) -> None:
        """Takes answers and refusals."""
        num_waiting = response.num_waiting_sequences + response.num_sequences_without_room
        link.report(num_others=response.num_other_sequences, num_waiting=num_waiting)
        for answer in response.answers:
            if sequence := self._find(answer.sequence_id, link):
                sequence.llm_prefill.add(answer.num_tokens_reused, answer.num_tokens_prefilled)
                token_ids: Sequence[int] = answer.token_ids
                if sequence.sample:
                    token_ids = sequence.sample.answer(answer.pass_id, token_ids)
                sequence.react(RoutingCore.answered, answer.pass_id, token_ids)
        for error in response.errors:
            sequence = self._find(error.sequence_id, link)
            if sequence and error.HasField("need_from"):
                sequence.react(RoutingCore.llm_needs, error.pass_id, error.need_from)
            elif sequence:
                self._on_refusal(link, sequence, error.code, error.message)

    def _go_without(self, sequence: RunningSequence) -> None:
        policy = sequence.task.llm_loss_policy
        if policy is LlmLossPolicy.SLM_ONLY:
            sequence.react(RoutingCore.llm_absent)
        elif policy is LlmLossPolicy.FAIL:
            grace_s = self.presence.grace_s
            sequence.fail(PeerUnavailable(f"llm: no replica for {grace_s:g} s, and llm_loss_policy is FAIL"))

    def _identity(self, info: LlmInfo) -> tuple[str, int]:
        return info.replica.replica_id, info.model.context_length

    def _serves(self, sequence: RunningSequence) -> bool:
        return sequence.task.rule.may_ask_llm

    def _held_prefixes(self, sequence: RunningSequence) -> Mapping[str, int]:
        return sequence.hits.llm

    def _owes_answer(self, sequence: RunningSequence) -> bool:
        return sequence.core.awaits_answer

    def _take_seat(
        self, sequence: RunningSequence, seat: LinkSeat[llm_pb2.ExtendCommand, llm_pb2.ExtendResponse, LlmInfo]
    ) -> None:
        sequence.llm = seat
        sequence.react(RoutingCore.llm_ready)

    def _leave_seat(self, sequence: RunningSequence) -> None:
        sequence.llm = None
        sequence.react(RoutingCore.llm_lost)

    def _encode(self, sequence: RunningSequence, action: ReplicaAction) -> llm_pb2.ExtendCommand:
        if not isinstance(action, AskLlm):
            raise TypeError(f"{type(action).__name__} isn't for an LLM")
        extend = llm_pb2.ExtendSequence(
            base_length=action.base_len,
            token_ids=action.token_ids,
            query_positions=sequence.sample.question(action) if sequence.sample else action.query_positions,
            pass_id=action.pass_id,
            sampling=sampling_message(sequence),
            priority=sequence.priority,
        )
        return llm_pb2.ExtendCommand(sequence_id=sequence.sequence_id, extend=extend)

    def _release_command(self, sequence: RunningSequence) -> llm_pb2.ExtendCommand:
        return llm_pb2.ExtendCommand(sequence_id=sequence.sequence_id, release=llm_pb2.ReleaseSequence())
