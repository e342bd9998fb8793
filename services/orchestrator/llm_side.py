"""The orchestrator's side of the streams to the LLM replicas.

Owns the way of answers from an LLM to the routing core.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import grpc
from trivium.v1 import llm_pb2, llm_pb2_grpc

from services.orchestrator.link import Link
from services.orchestrator.model_side import ModelSide, step_batches
from services.orchestrator.pair_gate import refuse_draining
from services.orchestrator.sequence import RunningSequence

LlmInfo = llm_pb2.LlmServiceGetServerInfoResponse
LlmLink = Link[llm_pb2.ExtendCommand, llm_pb2.ExtendResponse, LlmInfo]


class LlmSide(ModelSide[llm_pb2.ExtendCommand, llm_pb2.ExtendResponse, LlmInfo]):
    """Answers for all sequences."""

    async def describe(self, channel: grpc.aio.Channel) -> LlmInfo:
        """Asks a replica what it is."""
        return await llm_pb2_grpc.LlmServiceStub(channel).GetServerInfo(llm_pb2.LlmServiceGetServerInfoRequest())

    def check(self, info: LlmInfo) -> None:
        """Checks that a replica belongs to the pair."""
        refuse_draining(info.replica)
        self._gate.admit_llm(info.model)

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
        for answer in response.answers:
            if sequence := self._find(answer.sequence_id, link):
                counts = sequence.llm_prefill
                counts.num_reused = counts.num_reused or answer.num_tokens_reused
                counts.num_prefilled += answer.num_tokens_prefilled
                sequence.apply(sequence.core.answered(answer.pass_id, answer.token_ids))
        for error in response.errors:
            sequence = self._find(error.sequence_id, link)
            if sequence and error.HasField("need_from"):
                # Should it concern an older pass, the current one is sent again: a prefill more, never a token.
                sequence.apply(sequence.core.llm_needs(sequence.llm_pass_id, error.need_from))
            elif sequence:
                self._refused(link, sequence, error.code, error.message)

    def _replica_id(self, info: LlmInfo) -> str:
        return info.replica.replica_id

    def _held_prefixes(self, sequence: RunningSequence) -> Mapping[str, int]:
        return sequence.hits.llm

    def _link_of(self, sequence: RunningSequence) -> LlmLink | None:
        return sequence.llm

    def _place(self, sequence: RunningSequence, link: LlmLink) -> None:
        sequence.llm = link
        sequence.apply(sequence.core.llm_ready())

    def _displace(self, sequence: RunningSequence) -> None:
        sequence.llm = None
        sequence.apply(sequence.core.llm_lost())

    def _release_command(self, sequence: RunningSequence) -> llm_pb2.ExtendCommand:
        return llm_pb2.ExtendCommand(sequence_id=sequence.sequence_id, release=llm_pb2.ReleaseSequence())
