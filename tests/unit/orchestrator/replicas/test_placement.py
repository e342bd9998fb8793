from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from services.orchestrator.replicas.placement import choose_replica

MAX_EXTRA_LOAD = 8


@dataclass
class _Replica:
    replica_id: str
    load: int = 0
    suspect: bool = False


def _choose(replicas: Sequence[_Replica], held: Mapping[str, int], seed: int = 0) -> _Replica | None:
    return choose_replica(replicas, held, max_extra_load=MAX_EXTRA_LOAD, draw=random.Random(seed))


def _chosen(replicas: Sequence[_Replica], held: Mapping[str, int]) -> set[str]:
    """Which ones chance may choose."""
    chosen = (_choose(replicas, held, seed) for seed in range(200))
    return {replica.replica_id for replica in chosen if replica}


def test_choose_without_candidates_is_none() -> None:
    assert _choose([], {"a": 16}) is None


def test_choose_prefers_the_longest_held_prefix() -> None:
    assert _chosen([_Replica("a"), _Replica("b", 3), _Replica("c")], {"a": 16, "b": 48}) == {"b"}


def test_choose_of_two_takes_the_less_loaded_and_chance_among_equals() -> None:
    assert _chosen([_Replica("a", 2), _Replica("b", 1)], {}) == {"b"}
    assert _chosen([_Replica("a", 2), _Replica("b", 1), _Replica("c")], {"a": 16, "b": 16}) == {"b"}
    assert _chosen([_Replica("a"), _Replica("b")], {}) == {"a", "b"}


def test_choose_of_many_never_takes_the_most_loaded_but_not_always_the_idlest() -> None:
    assert _chosen([_Replica("a", 1), _Replica("b", 2), _Replica("c", 3)], {}) == {"a", "b"}


def test_choose_prefix_that_all_share_leaves_no_replica_idle() -> None:
    replicas = [_Replica("a"), _Replica("b")]
    for _ in range(40):
        chosen = _choose(replicas, {"a": 160})
        assert chosen is not None
        chosen.load += 1
    assert replicas[1].load >= 15


def test_choose_ignores_prefixes_of_replicas_that_are_gone() -> None:
    replica = _Replica("a")
    assert _choose([replica], {"gone": 160}) is replica


def test_choose_two_orchestrators_with_the_same_knowledge_spread_their_sequences() -> None:
    replicas = [_Replica(name) for name in "abcd"]
    chosen = Counter(replica.replica_id for seed in range(400) if (replica := _choose(replicas, {}, seed)))
    assert all(count > 50 for count in chosen.values())


_replicas = st.lists(st.integers(0, 100), min_size=1, max_size=8).map(
    lambda loads: [_Replica(str(index), load) for index, load in enumerate(loads)]
)


@given(
    replicas=_replicas,
    held=st.dictionaries(st.integers(0, 8).map(str), st.integers(0, 64)),
    seed=st.integers(0, 2**32),
)
def test_choose_never_takes_an_overloaded_one_nor_passes_a_longer_prefix_by(
    replicas: list[_Replica], held: dict[str, int], seed: int
) -> None:
    chosen = _choose(replicas, held, seed)
    assert chosen is not None
    least = min(replica.load for replica in replicas)
    assert chosen.load <= least + MAX_EXTRA_LOAD
    fit = [replica for replica in replicas if replica.load <= least + MAX_EXTRA_LOAD]
    assert held.get(chosen.replica_id, 0) == max(held.get(replica.replica_id, 0) for replica in fit)


@given(num_replicas=st.integers(2, 8), num_sequences=st.integers(0, 200), seed=st.integers(0, 2**32))
def test_choose_one_after_another_keeps_loads_close(num_replicas: int, num_sequences: int, seed: int) -> None:
    replicas, draw = [_Replica(str(index)) for index in range(num_replicas)], random.Random(seed)
    for _ in range(num_sequences):
        chosen = choose_replica(replicas, {}, max_extra_load=MAX_EXTRA_LOAD, draw=draw)
        assert chosen is not None
        chosen.load += 1
    loads = [replica.load for replica in replicas]
    assert sum(loads) == num_sequences
    assert max(loads) - min(loads) <= MAX_EXTRA_LOAD + 1


def test_suspect_replica_is_chosen_only_if_there_is_no_other() -> None:
    suspect, busy = _Replica("suspect", suspect=True), _Replica("busy", load=100)
    assert _chosen([suspect, busy], {"suspect": 64}) == {"busy"}
    assert _chosen([suspect], {}) == {"suspect"}
