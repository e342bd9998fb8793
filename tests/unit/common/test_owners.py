from __future__ import annotations

import pytest

from services.common.errors import InvalidRequest
from services.common.owners import SequenceOwners


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
    with pytest.raises(InvalidRequest, match="1 belongs to another stream"):
        owners.refuse_foreign(1, "b")
    assert (owners.get(1), owners.get(2), owners.of("a"), owners.of("b")) == ("a", None, [1], [])
