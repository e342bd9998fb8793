"""The orchestrator's side of the streams to the replicas of one model: what the SLM's and the LLM's have in common.

Owns which replica serves which sequence, and what happens when it is lost or refuses.
"""

from __future__ import annotations

import asyncio
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Generic, TypeVar

import grpc
from google.protobuf.message import Message

from services.common.errors import CapacityExceeded, ContextLengthExceeded, error_for_code
from services.orchestrator.replicas.link import CommandT, InfoT, Link, ResponseT
from services.orchestrator.replicas.pair_gate import PairGate
from services.orchestrator.replicas.placement import choose_replica
from services.orchestrator.requests.sequence import RunningSequence

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


class ModelSide(ABC, Generic[CommandT, ResponseT, InfoT]):
    """Places sequences on the replicas of one model.

    Args:
        sequences: All running sequences, by id; shared with the driver.
        gate: Checks replicas.
        on_gone: Called with the id of a replica whose stream is lost.
        draw: Where chance comes from.
    """

    def __init__(
        self,
        sequences: Mapping[int, RunningSequence],
        gate: PairGate,
        *,
        on_gone: Callable[[str], None],
        draw: random.Random,
    ) -> None:
        self.links: list[Link[CommandT, ResponseT, InfoT]] = []
        self.num_failovers = 0
        """Times that a sequence lost its replica, or was handed over by it."""
        self._sequences = sequences
        self._gate = gate
        self._on_gone = on_gone
        self._draw = draw

    def attach(self, sequence: RunningSequence) -> None:
        """Gives a sequence to a replica, unless it has one. If there is none, it gets the next one that is ready."""
        if self._link_of(sequence) is not None or not sequence.running:
            return
        available = [link for link in self.links if link.available]
        # One that is away for a moment still counts, since it may be back.
        roomy = [link for link in self.links if link.context_len >= sequence.max_len and not link.retired]
        link = choose_replica(
            (link for link in roomy if link.available and not link.full),
            self._held_prefixes(sequence),
            max_extra_load=_MAX_EXTRA_SEQUENCES,
            draw=self._draw,
        )
        if link is not None:
            link.num_sequences += 1
            self._place(sequence, link)
        elif not available:
            self._left_alone(sequence)
        elif roomy:
            self._attach_later(sequence)
        else:
            longest = max(link.context_len for link in available)
            sequence.fail(
                ContextLengthExceeded(f"max_new_tokens: {sequence.max_len} tokens in all; replicas take {longest}")
            )

    def release(self, sequence: RunningSequence) -> None:
        """Frees what the replica holds of a sequence."""
        link = self._link_of(sequence)
        if link is not None:
            link.num_sequences -= 1
            link.send(self._release_command(sequence))
            self._displace(sequence)

    def on_ready(self, link: Link[CommandT, ResponseT, InfoT], info: InfoT) -> None:
        """Gives the replica the sequences that wait for one."""
        link.replica_id, link.context_len = self._identity(info)
        for sequence in list(self._sequences.values()):
            self.attach(sequence)

    def on_lost(self, link: Link[CommandT, ResponseT, InfoT]) -> None:
        """Moves the replica's sequences."""
        self._on_gone(link.replica_id)
        for sequence in self._served_by(link):
            self.num_failovers += 1
            self._displace(sequence)
            self.attach(sequence)

    def _served_by(self, link: Link[CommandT, ResponseT, InfoT]) -> list[RunningSequence]:
        return [sequence for sequence in self._sequences.values() if self._link_of(sequence) is link]

    def _find(self, sequence_id: int, link: Link[CommandT, ResponseT, InfoT]) -> RunningSequence | None:
        """The sequence, if it still runs on this replica."""
        sequence = self._sequences.get(sequence_id)
        return sequence if sequence is not None and self._link_of(sequence) is link else None

    def _refused(
        self, link: Link[CommandT, ResponseT, InfoT], sequence: RunningSequence, code: int, message: str
    ) -> None:
        """The replica gave up a sequence."""
        link.num_sequences -= 1
        # An LLM that refuses to extend a sequence still holds what it had.
        link.send(self._release_command(sequence))
        self._displace(sequence)
        error = error_for_code(code, message)
        if error.code is grpc.StatusCode.UNAVAILABLE:
            link.draining = True
            self.num_failovers += 1
            self.attach(sequence)
        elif isinstance(error, CapacityExceeded):
            link.refused(_RETRY_S)
            self.attach(sequence)
            # At admission the caller is told; in the middle of a stream the sequence waits for room.
            if self._link_of(sequence) is None and not sequence.completion:
                sequence.fail(error)
        elif error.code in _PASSING:
            self._attach_later(sequence)
        else:
            sequence.fail(error)

    def _attach_later(self, sequence: RunningSequence) -> None:
        asyncio.get_running_loop().call_later(_RETRY_S, self.attach, sequence)

    def _left_alone(self, sequence: RunningSequence) -> None:
        """There is no replica for a sequence; it gets the next one that is ready."""

    @abstractmethod
    def _identity(self, info: InfoT) -> tuple[str, int]:
        """A replica's id, and the longest sequence that it takes."""

    @abstractmethod
    def _held_prefixes(self, sequence: RunningSequence) -> Mapping[str, int]:
        """Leading tokens that each replica is said to hold."""

    @abstractmethod
    def _link_of(self, sequence: RunningSequence) -> Link[CommandT, ResponseT, InfoT] | None: ...

    @abstractmethod
    def _place(self, sequence: RunningSequence, link: Link[CommandT, ResponseT, InfoT]) -> None:
        """Binds a sequence to a replica and tells its core."""

    @abstractmethod
    def _displace(self, sequence: RunningSequence) -> None:
        """Unbinds a sequence from its replica and tells its core."""

    @abstractmethod
    def _release_command(self, sequence: RunningSequence) -> CommandT: ...
