"""The orchestrator's side of the streams to the replicas of one model: what the SLM's and the LLM's have in common.

Owns which replica serves which sequence, and what happens when it is lost or refuses.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import grpc
from google.protobuf.message import Message
from trivium.v1 import common_pb2

from services.common.errors import ContextLengthExceeded, error_for_code
from services.orchestrator.pair.gate import PairGate
from services.orchestrator.replicas.link import CommandT, InfoT, Link, LinkPeer, ResponseT
from services.orchestrator.replicas.link_set import LinkSet
from services.orchestrator.replicas.placement import choose_replica
from services.orchestrator.replicas.presence import Presence
from services.orchestrator.sequences.running import RunningSequences
from services.orchestrator.sequences.sequence import ReplicaAction, RunningSequence

_RETRY_S = 0.2
# Beyond it, a replica doesn't even get the sequences whose prefix it holds.
_MAX_EXTRA_SEQUENCES = 8
# Reasons that may be gone at the next try, or that another replica doesn't have.
_PASSING = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.ABORTED,
    }
)
_MAX_BATCH_BYTES = 2**20

_CommandT = TypeVar("_CommandT", bound=Message)


def step_batches(commands: Sequence[_CommandT]) -> Iterator[list[_CommandT]]:
    """Splits commands, in order, into batches of about a MiB: few ever need two.

    Those that do are the whole prefixes that are sent at once when a replica is back: together they may be larger
    than a message may be.
    """
    batch: list[_CommandT] = []
    num_bytes = 0
    for command in commands:
        size = command.ByteSize()
        if batch and num_bytes + size > _MAX_BATCH_BYTES:
            yield batch
            batch, num_bytes = [], 0
        batch.append(command)
        num_bytes += size
    if batch:
        yield batch


def sampling_message(sequence: RunningSequence) -> common_pb2.SamplingParams | None:
    """How the tokens of a sequence are chosen; None if greedily."""
    sampling = sequence.task.sampling
    if sampling.temperature == 0:
        return None
    return common_pb2.SamplingParams(
        temperature=sampling.temperature, top_k=sampling.top_k, top_p=sampling.top_p, seed=sampling.seed
    )


@dataclass(slots=True)
class LinkSeat(Generic[CommandT, ResponseT, InfoT]):
    """A sequence's place on a replica: commands go there in the side's own messages."""

    sequence: RunningSequence
    link: Link[CommandT, ResponseT, InfoT]
    encode: Callable[[RunningSequence, ReplicaAction], CommandT]

    @property
    def replica_id(self) -> str:
        """The replica."""
        return self.link.replica_id

    def carry_out(self, action: ReplicaAction) -> None:
        """Has the replica do it."""
        self.link.send(self.encode(self.sequence, action))


class ModelSide(LinkPeer[CommandT, ResponseT, InfoT], ABC):
    """Places sequences on the replicas of one model.

    Args:
        running: All running sequences.
        gate: Checks replicas.
        make_links: Makes the links that this side is the peer of.
        on_gone: Called with the id of a replica whose stream is lost.
        draw: Where chance comes from.
        grace_s: Seconds without a replica until the model counts as gone.
    """

    def __init__(
        self,
        running: RunningSequences,
        gate: PairGate,
        *,
        make_links: Callable[[LinkPeer[CommandT, ResponseT, InfoT]], LinkSet[CommandT, ResponseT, InfoT]],
        on_gone: Callable[[str], None],
        draw: random.Random,
        grace_s: float,
    ) -> None:
        self.links = make_links(self)
        self.presence = Presence(grace_s)
        self.num_failovers = 0
        """Times that a sequence lost its replica, or was handed over by it."""
        self._running = running
        self._gate = gate
        self._on_gone = on_gone
        self._draw = draw
        self._seats: dict[int, LinkSeat[CommandT, ResponseT, InfoT]] = {}
        self._retries: dict[int, float] = {}
        self._last_context_len = 0

    @property
    def context_len(self) -> int:
        """Longest sequence that all replicas take that are listed and were connected, in tokens."""
        known = [link.context_len for link in self.links if link.context_len and not link.retired]
        return min(known, default=self._last_context_len)

    def attach(self, sequence: RunningSequence) -> None:
        """Gives a sequence to a replica, unless it has one or needs none.

        If there is no replica, it gets the next one that is ready.
        """
        if sequence.sequence_id in self._seats or not sequence.running or not self._serves(sequence):
            return
        available = self.links.available
        # One that is away for a moment still counts, since it may be back.
        roomy = [link for link in self.links if link.context_len >= sequence.max_len and not link.retired]
        link = choose_replica(
            (link for link in roomy if link.available),
            self._held_prefixes(sequence),
            max_extra_load=_MAX_EXTRA_SEQUENCES,
            draw=self._draw,
        )
        if link is not None:
            link.num_sequences += 1
            seat = self._seats[sequence.sequence_id] = LinkSeat(sequence, link, self._encode)
            self._take_seat(sequence, seat)
        elif not available:
            if self.presence.is_gone:
                self._go_without(sequence)
        elif roomy:
            self._attach_later(sequence)
        else:
            longest = max(link.context_len for link in available)
            sequence.fail(
                ContextLengthExceeded(f"max_new_tokens: {sequence.max_len} tokens in all; replicas take {longest}")
            )

    def release(self, sequence: RunningSequence) -> None:
        """Frees what the replica holds of a sequence."""
        self._retries.pop(sequence.sequence_id, None)
        seat = self._seats.pop(sequence.sequence_id, None)
        if seat is not None:
            seat.link.num_sequences -= 1
            seat.link.send(self._release_command(sequence))
            self._leave_seat(sequence)

    def tick(self, elapsed_s: float) -> None:
        """Takes note of the time: replicas that stall are given up, sequences that were to wait are placed.

        Args:
            elapsed_s: Seconds since the last call.
        """
        due = {id(seat.link) for seat in self._seats.values() if self._owes_answer(seat.sequence)}
        for link in self.links:
            link.tick(elapsed_s, is_due=id(link) in due)
        for sequence_id, wait_s in list(self._retries.items()):
            self._retries[sequence_id] = wait_s - elapsed_s
            if wait_s <= elapsed_s:
                del self._retries[sequence_id]
                if sequence := self._running.get(sequence_id):
                    self.attach(sequence)
        if self.presence.tick(elapsed_s, is_there=bool(self.links.available)) and self.presence.is_gone:
            for sequence in self._running:
                # Those on a draining replica still have one.
                if sequence.sequence_id not in self._seats and sequence.running and self._serves(sequence):
                    self._go_without(sequence)

    def on_ready(self, link: Link[CommandT, ResponseT, InfoT], info: InfoT) -> None:
        """Gives the replica the sequences that wait for one."""
        link.replica_id, link.context_len = self._identity(info)
        self._last_context_len = link.context_len
        self.presence.tick(0.0, is_there=True)
        for sequence in self._running:
            self.attach(sequence)

    def on_lost(self, link: Link[CommandT, ResponseT, InfoT]) -> None:
        """Moves the replica's sequences."""
        self._on_gone(link.replica_id)
        for seat in [seat for seat in self._seats.values() if seat.link is link]:
            self.num_failovers += 1
            self._move(seat.sequence)

    def _move(self, sequence: RunningSequence) -> None:
        """Takes a sequence off its replica, and gives it to another one."""
        self._unseat(sequence)
        self.attach(sequence)

    def _unseat(self, sequence: RunningSequence) -> None:
        self._seats.pop(sequence.sequence_id).link.num_sequences -= 1
        self._leave_seat(sequence)

    def _find(self, sequence_id: int, link: Link[CommandT, ResponseT, InfoT]) -> RunningSequence | None:
        """The sequence, if it still runs on this replica."""
        seat = self._seats.get(sequence_id)
        return seat.sequence if seat is not None and seat.link is link else None

    def _on_refusal(
        self, link: Link[CommandT, ResponseT, InfoT], sequence: RunningSequence, code: int, message: str
    ) -> None:
        """The replica gave up a sequence."""
        # An LLM that refuses to extend a sequence still holds what it had.
        link.send(self._release_command(sequence))
        self._unseat(sequence)
        error = error_for_code(code, message)
        if error.code is grpc.StatusCode.UNAVAILABLE:
            link.draining = True
            self.num_failovers += 1
            self.attach(sequence)
        elif error.code in _PASSING:
            self._attach_later(sequence)
        else:
            sequence.fail(error)

    def _attach_later(self, sequence: RunningSequence) -> None:
        self._retries[sequence.sequence_id] = _RETRY_S

    def _serves(self, sequence: RunningSequence) -> bool:
        """Whether the sequence has a use for the model."""
        return True

    @abstractmethod
    def _go_without(self, sequence: RunningSequence) -> None:
        """The model is gone, and the sequence has no replica."""

    @abstractmethod
    def _identity(self, info: InfoT) -> tuple[str, int]:
        """A replica's id, and the longest sequence that it takes."""

    @abstractmethod
    def _held_prefixes(self, sequence: RunningSequence) -> Mapping[str, int]:
        """Leading tokens that each replica is said to hold."""

    @abstractmethod
    def _owes_answer(self, sequence: RunningSequence) -> bool:
        """Whether the sequence's replica has something to do for it."""

    @abstractmethod
    def _take_seat(self, sequence: RunningSequence, seat: LinkSeat[CommandT, ResponseT, InfoT]) -> None:
        """Tells a sequence of its replica."""

    @abstractmethod
    def _leave_seat(self, sequence: RunningSequence) -> None:
        """Tells a sequence that it has no replica any more."""

    @abstractmethod
    def _encode(self, sequence: RunningSequence, action: ReplicaAction) -> CommandT:
        """Puts what the core asks for into a message."""

    @abstractmethod
    def _release_command(self, sequence: RunningSequence) -> CommandT: ...
