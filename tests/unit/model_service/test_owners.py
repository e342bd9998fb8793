from __future__ import annotations

import pytest

from services.common.errors import SequenceTaken
from services.model_service.owners import SequenceOwners


def test_idle_is_set_only_while_no_sequence_is_open() -> None:
    owners: SequenceOwners[str] = SequenceOwners()
    assert owners.idle.is_set()
    owners.claim(1, "a")
    owners.claim(2, "b")
    assert (owners.forget(1), owners.idle.is_set()) == ("a", False)
    assert (owners.forget(2), owners.idle.is_set()) == ("b", True)
    assert owners.forget(2) is None


def test_refuse_foreign_lets_only_the_owner_and_the_unknown_pass() -> None:
    owners: SequenceOwners[str] = SequenceOwners()
    owners.claim(1, "a")
    owners.refuse_foreign(1, "a")
    owners.refuse_foreign(2, "b")
    with pytest.raises(SequenceTaken, match="1 belongs to another stream"):
        owners.refuse_foreign(1, "b")
    assert (owners.get(1), owners.get(2), owners.of("a"), owners.of("b")) == ("a", None, [1], [])


def test_num_of_others_counts_what_other_streams_have_open() -> None:
    owners: SequenceOwners[str] = SequenceOwners()
    for sequence_id, stream in ((1, "a"), (2, "a"), (3, "b")):
        owners.claim(sequence_id, stream)
    assert [owners.num_of_others(stream) for stream in ("a", "b", "c")] == [1, 2, 3]
    owners.forget(2)
    assert owners.num_of_others("b") == 1
