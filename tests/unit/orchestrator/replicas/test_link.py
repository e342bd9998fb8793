from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from trivium.v1 import llm_pb2, router_pb2, slm_pb2, slm_pb2_grpc

from services.common.errors import PeerUnavailable
from services.orchestrator.replicas.link import Link
from services.orchestrator.replicas.model_side import step_batches
from services.orchestrator.replicas.pair_gate import PairGate
from services.orchestrator.replicas.router_side import RouterSide
from services.orchestrator.replicas.slm_side import SlmSide
from tests.serving import until
from tests.unit.orchestrator.cluster import FakeReplica, slm_replica

PATIENCE_S = 60.0


class _Peer:
    """Opens one sequence on each stream, and notes what happens."""

    def __init__(self) -> None:
        self.num_ready = self.num_lost = 0
        self.responses: list[slm_pb2.DraftResponse] = []
        self.refusal: PeerUnavailable | None = None
        self.violation: PeerUnavailable | None = None

    async def describe(self, channel: grpc.aio.Channel) -> slm_pb2.SlmServiceGetServerInfoResponse:
        return await slm_pb2_grpc.SlmServiceStub(channel).GetServerInfo(slm_pb2.SlmServiceGetServerInfoRequest())

    def open(self, channel: grpc.aio.Channel) -> Any:
        return slm_pb2_grpc.SlmServiceStub(channel).Draft()

    def pack(self, commands: Sequence[slm_pb2.DraftCommand]) -> Sequence[slm_pb2.DraftRequest]:
        return [slm_pb2.DraftRequest(commands=commands)]

    async def check(self, info: slm_pb2.SlmServiceGetServerInfoResponse) -> None:
        if self.refusal:
            raise self.refusal

    def on_ready(self, link: Any, info: slm_pb2.SlmServiceGetServerInfoResponse) -> None:
        self.num_ready += 1
        opening = slm_pb2.OpenSequence(token_ids=[5, 6], draft_until=4)
        link.send(slm_pb2.DraftCommand(sequence_id=self.num_ready, open=opening))

    def on_response(self, link: Any, response: slm_pb2.DraftResponse) -> None:
        self.responses.append(response)
        if self.violation:
            violation, self.violation = self.violation, None
            raise violation

    def on_lost(self, link: Any) -> None:
        self.num_lost += 1


@asynccontextmanager
async def _linked(replica: FakeReplica, peer: _Peer) -> AsyncIterator[Link[Any, Any, Any]]:
    await replica.start()
    link: Link[Any, Any, Any] = Link(replica.target, peer, max_message_mb=16, keepalive_s=20)
    running = asyncio.create_task(link.run())
    try:
        yield link
        assert not running.done()
    finally:
        running.cancel()
        await asyncio.wait({running})
        await replica.kill()


async def test_link_carries_commands_and_responses() -> None:
    peer = _Peer()
    async with _linked(slm_replica(), peer) as link:
        await until(lambda: sum(len(response.token_ids) for response in peer.responses) == 2, PATIENCE_S)
        assert link.ready
        assert link.num_messages == 1 + len(peer.responses)


async def test_link_reconnects_to_a_replica_that_was_killed_and_drops_what_was_queued_for_it() -> None:
    peer, replica = _Peer(), slm_replica()
    async with _linked(replica, peer) as link:
        await until(lambda: bool(peer.responses), PATIENCE_S)
        await replica.kill()
        await until(lambda: peer.num_lost == 1, PATIENCE_S)
        assert not link.ready
        link.send(slm_pb2.DraftCommand(sequence_id=77, open=slm_pb2.OpenSequence(token_ids=[5], draft_until=2)))
        peer.responses.clear()
        await replica.start()
        await until(lambda: bool(peer.responses), PATIENCE_S)
        assert peer.num_ready == 2
        assert replica.num_sequences == 1


async def test_link_peer_that_breaks_the_contract_costs_the_stream_only() -> None:
    peer = _Peer()
    peer.violation = PeerUnavailable("nonsense")
    async with _linked(slm_replica(), peer):
        await until(lambda: peer.num_ready == 2 and peer.num_lost == 1, PATIENCE_S)


async def test_link_replica_that_does_not_fit_is_asked_again() -> None:
    peer = _Peer()
    peer.refusal = PeerUnavailable("another model")
    async with _linked(slm_replica(), peer) as link:
        await asyncio.sleep(0.2)
        assert not link.ready
        assert peer.num_ready == peer.num_lost == 0
        peer.refusal = None
        await until(lambda: link.ready, PATIENCE_S)


async def test_link_defect_in_packing_is_raised_instead_of_hanging() -> None:
    class Defective(_Peer):
        def pack(self, commands: Sequence[slm_pb2.DraftCommand]) -> Sequence[slm_pb2.DraftRequest]:
            raise KeyError("a defect")

    replica = slm_replica()
    await replica.start()
    link: Link[Any, Any, Any] = Link(replica.target, Defective(), max_message_mb=16, keepalive_s=20)
    try:
        with pytest.raises(ExceptionGroup) as raised:
            await asyncio.wait_for(link.run(), PATIENCE_S)
        assert raised.group_contains(KeyError)
    finally:
        await replica.kill()


def _unused_link() -> Link[Any, Any, Any]:
    return Link("127.0.0.1:1", _Peer(), max_message_mb=16, keepalive_s=20)


@pytest.mark.parametrize("batch_id", [0, 7])
async def test_router_side_scores_nobody_asked_for_break_the_contract(batch_id: int) -> None:
    side = RouterSide({}, PairGate("aa", 1, lambda _outcome: None), draw=random.Random(0))
    with pytest.raises(PeerUnavailable, match=f"batch {batch_id}"):
        side.on_response(_unused_link(), router_pb2.ScoreResponse(batch_id=batch_id))


async def test_slm_side_columns_of_different_length_break_the_contract() -> None:
    gate = PairGate("aa", 1, lambda _outcome: None)
    draw = random.Random(0)
    side = SlmSide({}, gate, RouterSide({}, gate, draw=draw), on_gone=lambda _replica_id: None, draw=draw)
    with pytest.raises(PeerUnavailable, match="differ in length"):
        side.on_response(_unused_link(), slm_pb2.DraftResponse(sequence_ids=[1, 2], positions=[3]))


async def test_retired_link_ends_with_its_stream_and_is_not_opened_again() -> None:
    replica, peer = slm_replica(), _Peer()
    await replica.start()
    link: Link[Any, Any, Any] = Link(replica.target, peer, max_message_mb=16, keepalive_s=20)
    running = asyncio.create_task(link.run())
    await until(lambda: bool(peer.responses), PATIENCE_S)
    link.retired = True
    assert link.ready
    assert not link.available
    await replica.kill()
    await asyncio.wait_for(running, PATIENCE_S)
    assert (peer.num_ready, peer.num_lost) == (1, 1)


def test_load_counts_own_sequences_and_what_was_reported_until_the_report_is_old() -> None:
    now = 100.0
    link: Link[Any, Any, Any] = Link("127.0.0.1:1", _Peer(), max_message_mb=16, keepalive_s=20, clock=lambda: now)
    link.num_sequences = 2
    assert link.load == 2
    link.report(num_others=5, num_waiting=3)
    assert link.load == 10
    link.num_sequences = 1
    now += 1.9
    assert link.load == 9
    now += 0.2
    assert link.load == 1


def test_replica_that_refused_for_want_of_room_is_full_for_a_while() -> None:
    now = 100.0
    link: Link[Any, Any, Any] = Link("127.0.0.1:1", _Peer(), max_message_mb=16, keepalive_s=20, clock=lambda: now)
    assert not link.full
    link.refused(0.2)
    assert link.full
    now += 0.3
    assert not link.full


def test_step_batches_keep_the_order_and_stay_small() -> None:
    extend = llm_pb2.ExtendSequence(token_ids=[100_000] * 100_000, query_positions=[100_000])
    commands = [llm_pb2.ExtendCommand(sequence_id=number, extend=extend) for number in range(1, 8)]
    batches = list(step_batches(commands))
    assert [command.sequence_id for batch in batches for command in batch] == list(range(1, 8))
    assert len(batches) > 1
    assert all(llm_pb2.ExtendRequest(commands=batch).ByteSize() < 2 * 2**20 for batch in batches)


def test_step_batches_of_small_commands_are_one() -> None:
    release = llm_pb2.ReleaseSequence()
    commands = [llm_pb2.ExtendCommand(sequence_id=number, release=release) for number in range(1, 500)]
    assert len(list(step_batches(commands))) == 1
