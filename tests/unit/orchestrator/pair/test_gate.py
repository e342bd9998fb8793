from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from trivium.v1 import common_pb2

from services.common.errors import PeerUnavailable, ReplicaMismatch, RouterModelMismatch, TriviumError
from services.orchestrator.pair.check import ServedPair
from services.orchestrator.pair.gate import PairGate, refuse_draining
from tests.unit.orchestrator.pair.test_check import SHA, make_llm, make_router, make_slm


class _Gate:
    """A gate, and what it told."""

    def __init__(self) -> None:
        self.told: list[ServedPair | TriviumError] = []
        self.gate = PairGate(SHA, 100_000, self.told.append)


def test_gate_is_complete_with_the_third_kind_in_any_order() -> None:
    case = _Gate()
    case.gate.admit_router(make_router())
    case.gate.admit_llm(make_llm())
    assert case.gate.pair is None
    assert case.told == []
    case.gate.admit_slm(make_slm())
    assert case.told == [case.gate.pair]


async def test_gate_keeps_a_router_of_another_slm_out_until_the_right_one_comes() -> None:
    case = _Gate()
    case.gate.admit_slm(make_slm())
    case.gate.admit_llm(make_llm())
    with pytest.raises(RouterModelMismatch):
        case.gate.admit_router(make_router(hidden_size=65))
    assert isinstance(case.told[-1], RouterModelMismatch)
    assert case.gate.members.router is None
    with pytest.raises(PeerUnavailable, match="hidden_size: router 'judge' was trained with 65"):
        await case.gate.enter(lambda: case.gate.admit_slm(make_slm()))
    case.gate.admit_router(make_router())
    assert case.gate.pair is not None


def test_gate_takes_another_slm_while_the_pair_is_incomplete() -> None:
    case = _Gate()
    case.gate.admit_slm(make_slm(hidden_size=65))
    case.gate.admit_llm(make_llm())
    with pytest.raises(RouterModelMismatch):
        case.gate.admit_router(make_router())
    case.gate.admit_slm(make_slm())
    case.gate.admit_router(make_router())
    assert case.gate.pair is not None


def test_gate_refuses_replicas_that_differ_from_the_pair() -> None:
    case = _Gate()
    case.gate.admit_slm(make_slm())
    case.gate.admit_llm(make_llm())
    case.gate.admit_router(make_router())
    with pytest.raises(ReplicaMismatch, match=r"'another'.*'small'"):
        case.gate.admit_slm(make_slm(model_id="another"))
    with pytest.raises(ReplicaMismatch, match="LLM"):
        case.gate.admit_llm(make_llm(revision="newer"))
    with pytest.raises(ReplicaMismatch, match=r"SLM: .*weights 'aa', .*weights ''"):
        case.gate.admit_slm(make_slm(weights_revision="aa"))
    with pytest.raises(RouterModelMismatch, match="hidden_size"):
        case.gate.admit_router(make_router(hidden_size=65))
    case.gate.admit_slm(make_slm())
    assert isinstance(case.told[0], ServedPair)
    assert len(case.told) == 5


def test_gate_admits_other_weights_and_serves_them_when_told_to() -> None:
    case = _Gate()
    case.gate.admit_slm(make_slm())
    case.gate.admit_llm(make_llm())
    case.gate.admit_router(make_router())
    other = make_router(weights_sha256="cc" * 32, default_threshold=0.25)
    case.gate.admit_router(other)
    pair = case.gate.pair
    assert pair is not None
    assert (pair.router_weights, pair.default_threshold) == ("", 0.5)
    case.gate.serve_router(other)
    assert case.gate.pair == replace(pair, router_weights="cc" * 32, default_threshold=0.25)
    assert case.gate.members.router == other


async def test_gate_lets_nobody_in_before_the_pair_is_complete() -> None:
    case = _Gate()
    with pytest.raises(PeerUnavailable, match="waits for the LLM and router"):
        await case.gate.enter(lambda: case.gate.admit_slm(make_slm()))
    first = asyncio.create_task(case.gate.enter(lambda: case.gate.admit_slm(make_slm(model_id="first"))))
    second = asyncio.create_task(case.gate.enter(lambda: case.gate.admit_slm(make_slm(model_id="second"))))
    await asyncio.sleep(0)
    case.gate.admit_llm(make_llm())
    await case.gate.enter(lambda: case.gate.admit_router(make_router()))
    with pytest.raises(ReplicaMismatch, match=r"'first'.*'second'"):
        await first
    await second


def test_draining_replica_is_refused_by_name() -> None:
    refuse_draining(common_pb2.ReplicaInfo(replica_id="a"))
    with pytest.raises(PeerUnavailable, match="replica a "):
        refuse_draining(common_pb2.ReplicaInfo(replica_id="a", draining=True))
