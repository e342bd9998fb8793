"""The orchestrator's side of the streams to the LLM replicas.

Owns the way of answers from an LLM to the routing core, and what becomes of sequences when no LLM is left.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import grpc
from trivium.v1 import llm_pb2, llm_pb2_grpc

from services.common.errors import PeerUnavailable
from services.orchestrator.replicas.link import Link
from services.orchestrator.replicas.model_side import ModelSide, step_batches
from services.orchestrator.replicas.pair_gate import PairGate, refuse_draining
from services.orchestrator.requests.parse import LlmLossPolicy
from services.orchestrator.requests.sequence import RunningSequence

LlmInfo = llm_pb2.LlmServiceGetServerInfoResponse
LlmLink = Link[llm_pb2.ExtendCommand, llm_pb2.ExtendResponse, LlmInfo]


class LlmSide(ModelSide[llm_pb2.ExtendCommand, llm_pb2.ExtendResponse, LlmInfo]):
    """Answers for all sequences.

    The LLM is *lost* once a sequence has waited `grace_s` for a replica and none takes sequences; it is back with the
    next one that is ready. What a sequence without a replica does in between, its request says.

    Args:
        sequences: All running sequences, by id; shared with the driver.
        gate: Checks replicas.
        on_gone: Called with the id of a replica whose stream is lost.
        draw: Where chance comes from.
        grace_s: Seconds until the LLM counts as lost.
    """

    def __init__(
        self,
        sequences: Mapping[int, RunningSequence],
        gate: PairGate,
        *,
        on_gone: Callable[[str], None],
        draw: random.Random,
        grace_s: float,
    ) -> None:
        super().__init__(sequences, gate, on_gone=on_gone, draw=draw)
        self._grace_s = grace_s
        self._grace: asyncio.TimerHandle | None = None
        self._lost = False

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
        link.report(num_others=response.num_other_sequences, num_waiting=response.num_waiting_sequences)
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

    def on_ready(self, link: LlmLink, info: LlmInfo) -> None:
        """Gives the replica the sequences that wait for one: routing goes on."""
        self._lost = False
        if self._grace is not None:
            self._grace.cancel()
            self._grace = None
        super().on_ready(link, info)

    def _left_alone(self, sequence: RunningSequence) -> None:
        if self._lost:
            self._go_without(sequence)
        elif self._grace is None:
            self._grace = asyncio.get_running_loop().call_later(self._grace_s, self._on_grace_over)

    def _on_grace_over(self) -> None:
        self._grace = None
        self._lost = True
        for sequence in list(self._sequences.values()):
            # Those on a draining replica still have one.
            if sequence.llm is None and sequence.running:
                self._go_without(sequence)

    def _go_without(self, sequence: RunningSequence) -> None:
        policy = sequence.task.llm_loss_policy
        if policy is LlmLossPolicy.SLM_ONLY:
            sequence.apply(sequence.core.llm_absent())
        elif policy is LlmLossPolicy.FAIL and sequence.task.threshold <= 1:
            sequence.fail(PeerUnavailable(f"llm: no replica for {self._grace_s:g} s, and llm_loss_policy is FAIL"))

    def _identity(self, info: LlmInfo) -> tuple[str, int]:
        return info.replica.replica_id, info.model.context_length

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
