"""The requests in flight, findable by the names that they go by."""

from __future__ import annotations

from collections.abc import Iterator

from services.orchestrator.sequences.sequence import RunningSequence


class RunningSequences:
    """Every sequence between its admission and the end of its stream. Changed by the driver alone."""

    def __init__(self) -> None:
        self._by_id: dict[int, RunningSequence] = {}
        self._by_request: dict[str, list[RunningSequence]] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[RunningSequence]:
        """Those that are there now, in order of admission; the loop may add and remove some."""
        return iter(list(self._by_id.values()))

    def add(self, sequence: RunningSequence) -> None:
        """A sequence runs."""
        self._by_id[sequence.sequence_id] = sequence
        self._by_request.setdefault(sequence.task.request_id, []).append(sequence)

    def remove(self, sequence: RunningSequence) -> None:
        """Its stream is over."""
        del self._by_id[sequence.sequence_id]
        of_request = self._by_request[sequence.task.request_id]
        of_request.remove(sequence)
        if not of_request:
            del self._by_request[sequence.task.request_id]

    def get(self, sequence_id: int) -> RunningSequence | None:
        """Finds one by the name that replicas know."""
        return self._by_id.get(sequence_id)

    def of_request(self, request_id: str) -> RunningSequence | None:
        """Finds one by the name that clients know.

        One that has ended may still be there, since its client is slow to read: one that runs comes first.
        """
        return max(self._by_request.get(request_id, ()), key=lambda sequence: sequence.running, default=None)
