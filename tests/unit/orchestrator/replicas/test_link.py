from __future__ import annotations

import asyncio
import math
import random
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import grpc
import pytest
from trivium.v1 import common_pb2, llm_pb2, router_pb2, slm_pb2, slm_pb2_grpc

from services.common.errors import PeerUnavailable
from services.common.serving.channels import open_channel
from services.orchestrator.pair.gate import PairGate
from services.orchestrator.replicas.discovery import Discovery
from services.orchestrator.replicas.draft_scores import DraftScores
from services.orchestrator.replicas.link import Link
from services.orchestrator.replicas.link_set import LinkSet
from services.orchestrator.replicas.model_side import step_batches
from services.orchestrator.replicas.router_side import RouterSide
from services.orchestrator.replicas.scored_row import ScoredRow
from services.orchestrator.replicas.slm_side import SlmSide
from services.orchestrator.sequences.running import RunningSequences
from services.orchestrator.sequences.sequence import RunningSequence
from tests.serving import until
from tests.unit.orchestrator.cluster import FakeReplica, make_task, slm_replica

PATIENCE_S = 60.0


class _Peer:
    """Opens one sequence on each stream, and notes what happens."""

    def __init__(self) -> None:
        self.num_ready = self.num_lost = 0
        self.responses: list[slm_pb2.DraftResponse] = []
        self.refusal: PeerUnavailable | None = None
        self.violation: PeerUnavailable | None = None
        self.defects: list[str] = []

    async def describe(self, channel: grpc.aio.Channel) -> slm_pb2.SlmServiceGetServerInfoResponse:
        return await slm_pb2_grpc.SlmServiceStub(channel).GetServerInfo(slm_pb2.SlmServiceGetServerInfoRequest())

    def open(self, channel: grpc.aio.Channel) -> Any:
        return slm_pb2_grpc.SlmServiceStub(channel).Draft()

    def pack(self, commands: Sequence[slm_pb2.DraftCommand]) -> Sequence[slm_pb2.DraftRequest]:
        self._fail_in("pack")
        return [slm_pb2.DraftRequest(commands=commands)]

    async def check(self, info: slm_pb2.SlmServiceGetServerInfoResponse) -> None:
        if self.refusal:
            raise self.refusal

    def on_ready(self, link: Any, info: slm_pb2.SlmServiceGetServerInfoResponse) -> None:
        self.num_ready += 1
        opening = slm_pb2.OpenSequence(token_ids=[5, 6], draft_until=4)
        link.send(slm_pb2.DraftCommand(sequence_id=self.num_ready, open=opening))
        self._fail_in("on_ready")

    def _fail_in(self, place: str) -> None:
        if place in self.defects:
            self.defects.remove(place)
            raise KeyError("a defect")

    def on_response(self, link: Any, response: slm_pb2.DraftResponse) -> None:
        self._fail_in("on_response")
        self.responses.append(response)
        if self.violation:
            violation, self.violation = self.violation, None
            raise violation

    def on_lost(self, link: Any) -> None:
        self.num_lost += 1


@asynccontextmanager
async def _linked(replica: FakeReplica, peer: _Peer, **options: Any) -> AsyncIterator[Link[Any, Any, Any]]:
    await replica.start()
    link: Link[Any, Any, Any] = Link(replica.target, peer, open_channel=open_channel, **options)
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


@pytest.mark.parametrize("place", ["pack", "on_ready", "on_response"])
async def test_link_defect_costs_the_stream_is_told_and_nothing_else_ends(
    place: str, caplog: pytest.LogCaptureFixture
) -> None:
    peer = _Peer()
    peer.defects.append(place)
    async with _linked(slm_replica(), peer) as link:
        await until(lambda: bool(peer.responses), PATIENCE_S)
        assert link.ready
        assert peer.num_lost == 1
    assert any(record.exc_info and "a defect" in record.message for record in caplog.records)


async def test_link_silent_replica_that_owes_an_answer_is_given_up_and_linked_anew() -> None:
    peer = _Peer()
    async with _linked(slm_replica(), peer, stall_limit_s=1.0) as link:
        await until(lambda: len(peer.responses) == 2, PATIENCE_S)
        for _ in range(100):
            link.tick(0.5, is_due=False)
        assert (link.num_stalls, link.suspect) == (0, False)
        for _ in range(3):
            link.tick(0.5, is_due=True)
        await until(lambda: peer.num_ready == 2, PATIENCE_S)
        assert (link.num_stalls, peer.num_lost, link.suspect) == (1, 1, True)


def _unused_link(*_args: Any) -> Link[Any, Any, Any]:
    return Link("127.0.0.1:1", _Peer(), open_channel=open_channel)


def _no_links(peer: Any) -> LinkSet[Any, Any, Any]:
    return LinkSet(peer, discovery=Discovery([]), connect=_unused_link, interval_s=1)


def _router_side(link: Link[Any, Any, Any] | None = None) -> RouterSide:
    """A side whose replicas are those of a link that is ready, if one is given."""
    gate = PairGate("aa", 1, lambda _outcome: None)
    side = RouterSide(RunningSequences(), gate, make_links=_no_links, draw=random.Random(0), grace_s=1)
    if link is not None:
        link.ready = True
        side.links._links[link] = asyncio.get_running_loop().create_future()  # type: ignore[assignment]
    return side


@pytest.mark.parametrize("batch_id", [0, 7])
async def test_router_side_scores_nobody_asked_for_break_the_contract(batch_id: int) -> None:
    with pytest.raises(PeerUnavailable, match=f"batch {batch_id}"):
        _router_side().on_response(_unused_link(), router_pb2.ScoreResponse(batch_id=batch_id))


@pytest.mark.parametrize("score", [math.nan, -0.1, 1.5, math.inf])
async def test_router_side_score_that_is_no_probability_breaks_the_contract(score: float) -> None:
    link = _unused_link()
    side = _router_side(link)
    side.on_ready(link, router_pb2.RouterServiceGetServerInfoResponse())
    sequence = _Scored()
    side.score([ScoredRow(cast(RunningSequence, sequence), 3, 1)], slm_pb2.DraftResponse(token_ids=[5]))
    scores = common_pb2.Tensor(data=struct.pack("<f", score))
    with pytest.raises(PeerUnavailable, match="batch 1 isn't a probability"):
        side.on_response(link, router_pb2.ScoreResponse(batch_id=1, divergence_probabilities=scores))


class _Scored:
    sequence_id = 1
    task = make_task()


async def test_slm_side_columns_of_different_length_break_the_contract() -> None:
    gate = PairGate("aa", 1, lambda _outcome: None)
    side = SlmSide(
        RunningSequences(),
        gate,
        DraftScores(_router_side()),
        make_links=_no_links,
        on_gone=lambda _replica_id: None,
        draw=random.Random(0),
        grace_s=1,
    )
    with pytest.raises(PeerUnavailable, match="differ in length"):
        side.on_response(_unused_link(), slm_pb2.DraftResponse(sequence_ids=[1, 2], positions=[3]))


async def test_retired_link_ends_with_its_stream_and_is_not_opened_again() -> None:
    replica, peer = slm_replica(), _Peer()
    await replica.start()
    link: Link[Any, Any, Any] = Link(replica.target, peer, open_channel=open_channel)
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
    link: Link[Any, Any, Any] = Link("127.0.0.1:1", _Peer(), open_channel=open_channel, clock=lambda: now)
    link.num_sequences = 2
    assert link.load == 2
    link.report(num_others=5, num_waiting=3)
    assert link.load == 10
    link.num_sequences = 1
    now += 1.9
    assert link.load == 9
    now += 0.2
    assert link.load == 1


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
