"""The sequences in flight, findable by the name that replicas know."""

from __future__ import annotations

from collections.abc import Iterator

from services.orchestrator.sequences.sequence import RunningSequence


class RunningSequences:
    """Every sequence between its admission and the end of its stream. Changed by the driver alone."""

    def __init__(self) -> None:
        self._by_id: dict[int, RunningSequence] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[RunningSequence]:
        """Those that are there now, in order of admission; the loop may add and remove some."""
        return iter(list(self._by_id.values()))

    def add(self, sequence: RunningSequence) -> None:
        """A sequence runs."""
        self._by_id[sequence.sequence_id] = sequence

    def remove(self, sequence: RunningSequence) -> None:
        """Its stream is over."""
        del self._by_id[sequence.sequence_id]

    def get(self, sequence_id: int) -> RunningSequence | None:
        """Finds one by the name that replicas know."""
        return self._by_id.get(sequence_id)
