"""Chooses the replica for a sequence, or for a step batch of drafts."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from typing import Protocol, TypeVar


class Candidate(Protocol):
    """A replica as far as the choice needs to know it."""

    @property
    def replica_id(self) -> str:
        """Its name."""

    @property
    def load(self) -> int:
        """How much it has to do, as far as that is known here."""

    @property
    def suspect(self) -> bool:
        """Whether it gets work only if there is no other."""


CandidateT = TypeVar("CandidateT", bound=Candidate)


def choose_replica(
    candidates: Iterable[CandidateT], held: Mapping[str, int], *, max_extra_load: int, draw: random.Random
) -> CandidateT | None:
    """Chooses the replica that holds the longest prefix, else the less loaded one of two that are drawn.

    A suspect one isn't chosen while there is another. An overloaded replica isn't chosen either, not even for its
    prefix: one that all prompts share would leave the others without work. Of several that hold as much, two are
    drawn as well. Two orchestrators that know the same thus don't send everything to the same replica, as they would
    if each took the least loaded one.

    Args:
        candidates: Replicas that take work now.
        held: Leading tokens of the sequence that each replica is said to hold, by replica id.
        max_extra_load: A replica whose load is above the least one by more than this is overloaded.
        draw: Where chance comes from.

    Returns:
        None without candidates.
    """
    every = list(candidates)
    replicas = [replica for replica in every if not replica.suspect] or every
    if not replicas:
        return None
    most = min(replica.load for replica in replicas) + max_extra_load
    replicas = [replica for replica in replicas if replica.load <= most]
    longest = max(held.get(replica.replica_id, 0) for replica in replicas)
    replicas = [replica for replica in replicas if held.get(replica.replica_id, 0) == longest]
    # In the order in which they were drawn, so that chance decides among equals.
    return min(draw.sample(replicas, min(2, len(replicas))), key=lambda replica: replica.load)
