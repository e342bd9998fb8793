from __future__ import annotations

import traceback
from typing import Any

import pytest
from grpc_health.v1 import health_pb2

from services.common.errors import (
    CapacityExceeded,
    Draining,
    ModelNotReady,
    PeerUnavailable,
    TokenizerMismatch,
    TriviumError,
)
from services.common.serving.lifecycle import Lifecycle

NAME = "trivium.v1.SlmService"
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


async def health(lifecycle: Lifecycle, name: str = NAME) -> Any:
    return (await lifecycle.health.Check(health_pb2.HealthCheckRequest(service=name), None)).status


def num_frames_when_raised(lifecycle: Lifecycle) -> int:
    refusal = lifecycle.refusal
    assert refusal is not None
    with pytest.raises(TriviumError) as raised:
        raise refusal
    return len(list(traceback.walk_tb(raised.value.__traceback__)))


async def test_refusal_raised_for_many_calls_collects_no_traceback() -> None:
    lifecycle = Lifecycle(NAME, "r1")
    for reason in (None, PeerUnavailable("slm: none is left"), CapacityExceeded("full", retry_after_s=7)):
        if reason:
            await lifecycle.mark_not_ready(reason)
        assert {num_frames_when_raised(lifecycle) for _ in range(5)} == {1}


async def test_refusal_of_a_reason_keeps_its_kind_message_and_fields() -> None:
    lifecycle = Lifecycle(NAME, "r1")
    await lifecycle.mark_not_ready(CapacityExceeded("full", retry_after_s=7))
    refusal = lifecycle.refusal
    assert isinstance(refusal, CapacityExceeded)
    assert (str(refusal), refusal.retry_after_s) == ("full", 7)


async def test_without_a_peer_health_is_not_serving_with_the_reason_and_comes_back() -> None:
    lifecycle = Lifecycle(NAME, "r1")
    await lifecycle.mark_ready()
    assert (await health(lifecycle), await health(lifecycle, "")) == (SERVING, SERVING)
    await lifecycle.mark_not_ready(PeerUnavailable("slm: none is left"))
    assert (await health(lifecycle), await health(lifecycle, "")) == (NOT_SERVING, NOT_SERVING)
    assert str(lifecycle.refusal) == "slm: none is left"
    await lifecycle.mark_ready()
    assert (await health(lifecycle), lifecycle.refusal) == (SERVING, None)


async def test_explain_while_starting_replaces_the_reason() -> None:
    lifecycle = Lifecycle(NAME, "r1")
    assert isinstance(lifecycle.refusal, ModelNotReady)
    lifecycle.explain(TokenizerMismatch("slm a, llm b"))
    assert isinstance(lifecycle.refusal, TokenizerMismatch)


async def test_explain_while_ready_refuses_nothing() -> None:
    lifecycle = Lifecycle(NAME, "r1")
    await lifecycle.mark_ready()
    lifecycle.explain(TokenizerMismatch("slm a, llm b"))
    assert lifecycle.refusal is None


async def test_draining_is_final() -> None:
    lifecycle = Lifecycle(NAME, "r1")
    await lifecycle.mark_draining()
    lifecycle.explain(TokenizerMismatch("slm a, llm b"))
    await lifecycle.mark_not_ready(PeerUnavailable("slm: none is left"))
    await lifecycle.mark_ready()
    assert isinstance(lifecycle.refusal, Draining)
    assert lifecycle.draining
    assert await health(lifecycle) == NOT_SERVING


async def test_nobody_else_can_set_what_calls_are_refused_with() -> None:
    lifecycle: Any = Lifecycle(NAME, "r1")
    with pytest.raises(AttributeError):
        lifecycle.refusal = TokenizerMismatch("slm a, llm b")
    with pytest.raises(AttributeError):
        lifecycle.draining = True
