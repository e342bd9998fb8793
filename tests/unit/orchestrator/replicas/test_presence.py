from __future__ import annotations

from services.orchestrator.replicas.presence import Presence


def test_service_is_gone_after_the_grace_time_and_back_at_once() -> None:
    presence = Presence(1.0)
    changes = [presence.tick(0.25, is_there=is_there) for is_there in (True, *[False] * 6, True, True)]
    assert changes == [False, False, False, False, False, True, False, True, False]
    assert not presence.is_gone


def test_replica_that_comes_within_the_grace_time_begins_it_anew() -> None:
    presence = Presence(1.0)
    for is_there in (False, False, False, True, False, False, False):
        presence.tick(0.25, is_there=is_there)
    assert not presence.is_gone


def test_no_grace_means_gone_with_the_first_look() -> None:
    presence = Presence(0.0)
    assert presence.tick(0.0, is_there=False)
    assert presence.is_gone
