from __future__ import annotations

from services.model_service.heartbeats import Heartbeats


def test_stream_is_due_once_it_was_told_nothing_for_the_interval() -> None:
    heartbeats: Heartbeats[str] = Heartbeats(0.5)
    heartbeats.told("a", 10.0)
    heartbeats.told("b", 10.25)
    assert heartbeats.due(10.49) == []
    assert heartbeats.due(10.5) == ["a"]
    heartbeats.told("a", 10.5)
    assert heartbeats.due(10.75) == ["b"]
    heartbeats.ended("b")
    assert heartbeats.due(11.0) == ["a"]
