from __future__ import annotations

from dataclasses import dataclass

from services.orchestrator.placement import choose_replica


@dataclass
class _Replica:
    replica_id: str
    num_sequences: int = 0


def test_choose_without_candidates_is_none() -> None:
    assert choose_replica([], {"a": 16}) is None


def test_choose_prefers_the_longest_held_prefix() -> None:
    replicas = [_Replica("a"), _Replica("b", 3), _Replica("c")]
    assert choose_replica(replicas, {"a": 16, "b": 48}) is replicas[1]


def test_choose_among_equals_takes_the_least_loaded() -> None:
    replicas = [_Replica("a", 2), _Replica("b", 1)]
    assert choose_replica(replicas, {}) is replicas[1]
    assert choose_replica(replicas, {"a": 16, "b": 16}) is replicas[1]


def test_choose_prefix_that_all_share_leaves_no_replica_idle() -> None:
    replicas = [_Replica("a"), _Replica("b")]
    for _ in range(40):
        chosen = choose_replica(replicas, {"a": 160})
        assert chosen is not None
        chosen.num_sequences += 1
    assert replicas[1].num_sequences >= 15


def test_choose_ignores_prefixes_of_replicas_that_are_gone() -> None:
    replica = _Replica("a")
    assert choose_replica([replica], {"gone": 160}) is replica
