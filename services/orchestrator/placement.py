"""Chooses the replica for a sequence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol, TypeVar


class Candidate(Protocol):
    """A replica as far as the choice needs to know it."""

    @property
    def replica_id(self) -> str:
        """Its name."""

    @property
    def num_sequences(self) -> int:
        """Sequences of this orchestrator that it serves."""


CandidateT = TypeVar("CandidateT", bound=Candidate)


_MAX_EXTRA_SEQUENCES = 8
"""How many sequences more than the idlest replica one may have and still attract those whose prefix it holds."""


def choose_replica(candidates: Iterable[CandidateT], held: Mapping[str, int]) -> CandidateT | None:
    """Chooses the replica that holds the longest prefix, and the least loaded one among equals.

    A busy replica isn't chosen for its prefix: one that all prompts share would leave the others without work.

    Args:
        candidates: Replicas that take sequences now.
        held: Leading tokens of the sequence that each replica is said to hold, by replica id.

    Returns:
        None without candidates.
    """
    replicas = list(candidates)
    most = min((replica.num_sequences for replica in replicas), default=0) + _MAX_EXTRA_SEQUENCES
    return max(
        (replica for replica in replicas if replica.num_sequences <= most),
        key=lambda candidate: (held.get(candidate.replica_id, 0), -candidate.num_sequences),
        default=None,
    )
