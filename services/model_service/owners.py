"""Remembers which stream of a model service opened which sequence.

Owns the rule that a sequence belongs to one stream: others can neither change nor free it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Generic, TypeVar

from services.common.errors import SequenceTaken

StreamT = TypeVar("StreamT")


class SequenceOwners(Generic[StreamT]):
    """The open sequences of a service and their streams."""

    def __init__(self) -> None:
        self._streams: dict[int, StreamT] = {}
        self._num_of: Counter[StreamT] = Counter()
        self.idle = asyncio.Event()
        """Set while no sequence is open."""
        self.idle.set()

    def get(self, sequence_id: int) -> StreamT | None:
        """Returns the stream of an open sequence, else None."""
        return self._streams.get(sequence_id)

    def claim(self, sequence_id: int, stream: StreamT) -> None:
        """Notes that the stream has the sequence, which no other one may have."""
        if sequence_id not in self._streams:
            self._num_of[stream] += 1
        self._streams[sequence_id] = stream
        self.idle.clear()

    def refuse_foreign(self, sequence_id: int, stream: StreamT) -> None:
        """Raises SequenceTaken where another stream has the sequence."""
        if self._streams.get(sequence_id, stream) is not stream:
            raise SequenceTaken(f"sequence_id: {sequence_id} belongs to another stream")

    def forget(self, sequence_id: int) -> StreamT | None:
        """Notes that a sequence is closed. Returns the stream that had it, else None."""
        stream = self._streams.pop(sequence_id, None)
        if stream is not None:
            self._num_of[stream] -= 1
            if not self._num_of[stream]:
                del self._num_of[stream]
        if not self._streams:
            self.idle.set()
        return stream

    def of(self, stream: StreamT) -> list[int]:
        """Returns the sequences of a stream."""
        return [sequence_id for sequence_id, owner in self._streams.items() if owner is stream]

    def num_of_others(self, stream: StreamT) -> int:
        """Returns how many sequences the other streams have."""
        return len(self._streams) - self._num_of[stream]
