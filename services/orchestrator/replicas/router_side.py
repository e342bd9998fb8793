"""The orchestrator's side of the streams to the router replicas.

Owns the step batches that are being scored, and which weights each replica can score with, those of a shadow among
them. A batch that an SLM sent goes on to a router as it came where all of its rows want the same weights, so that
features aren't copied row by row.

Sequences keep the weights that they began with. New ones get what most replicas serve.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import grpc
import numpy as np
from trivium.v1 import common_pb2, router_pb2, router_pb2_grpc, slm_pb2

from services.common.errors import PeerUnavailable
from services.orchestrator.pair.gate import PairGate, refuse_draining
from services.orchestrator.replicas.link import Link, LinkPeer
from services.orchestrator.replicas.link_set import LinkSet
from services.orchestrator.replicas.placement import choose_replica
from services.orchestrator.replicas.presence import Presence
from services.orchestrator.replicas.scored_row import DraftRow
from services.orchestrator.routing.core import RoutingCore
from services.orchestrator.sequences.running import RunningSequences
from services.rules.rule import Evidence

RouterInfo = router_pb2.RouterServiceGetServerInfoResponse
RouterLink = Link[router_pb2.ScoreRequest, router_pb2.ScoreResponse, RouterInfo]

# A forward pass of so many rows takes little longer than one of a single row.
_MAX_EXTRA_ROWS = 64


class RouterSide:
    """Scores drafts by the router's word.

    Args:
        running: All running sequences.
        gate: Checks replicas.
        make_links: Makes the links that this side is the peer of.
        draw: Where chance comes from.
        grace_s: Seconds without a replica until sequences end with UNAVAILABLE.
    """

    def __init__(
        self,
        running: RunningSequences,
        gate: PairGate,
        *,
        make_links: Callable[
            [LinkPeer[router_pb2.ScoreRequest, router_pb2.ScoreResponse, RouterInfo]],
            LinkSet[router_pb2.ScoreRequest, router_pb2.ScoreResponse, RouterInfo],
        ],
        draw: random.Random,
        grace_s: float,
    ) -> None:
        self.links = make_links(self)
        self.presence = Presence(grace_s)
        self.num_failovers = 0
        """Times that a sequence lost the replica that was about to score its drafts."""
        self._running = running
        self._gate = gate
        self._draw = draw
        self._batches: dict[int, tuple[RouterLink, list[DraftRow]]] = {}
        self._next_batch_id = 0
        self._unscored: set[int] = set()
        self._served: dict[RouterLink, RouterInfo] = {}
        self._absent_s: dict[str, float] = {}

    @property
    def shadow(self) -> router_pb2.RouterInfo | None:
        """The router that decides nothing, as most replicas have it; None where none has one."""
        infos = [self._served[link] for link in self.links.available if link in self._served]
        found = [info.shadow for info in infos if info.HasField("shadow")]
        counts = Counter(info.weights_sha256 for info in found)
        return max(found, key=lambda info: counts[info.weights_sha256], default=None)

    def score(self, rows: Sequence[DraftRow | None], response: slm_pb2.DraftResponse) -> None:
        """Sends the rows of a step batch that are not None to replicas that have little to do.

        Without a replica, the drafts are forgotten and drafted again once there is one.
        """
        wanted = {row.router_weights for row in rows if row is not None}
        for weights in wanted:
            chosen = rows if len(wanted) == 1 else [_if_wants(row, weights) for row in rows]
            self._score(weights, chosen, response)

    def _score(self, weights: str, rows: Sequence[DraftRow | None], response: slm_pb2.DraftResponse) -> None:
        current = [row for row in rows if row is not None]
        holders = [link for link in self.links.available if self._holds(link, weights)]
        link = choose_replica(holders, {}, max_extra_load=_MAX_EXTRA_ROWS, draw=self._draw)
        if link is None:
            self._unscored |= _to_redraft(current)
            return
        self._next_batch_id += 1
        self._batches[self._next_batch_id] = (link, current)
        link.num_sequences += len(current)
        keep = None if len(current) == len(rows) else [row is not None for row in rows]
        link.send(
            router_pb2.ScoreRequest(
                batch_id=self._next_batch_id,
                token_ids=response.token_ids if keep is None else _select(response.token_ids, keep),
                hidden_states=_select_rows(response.hidden_states, keep),
                top_logits=_select_rows(response.top_logits, keep),
                weights_sha256=weights,
            )
        )

    def tick(self, elapsed_s: float) -> None:
        """Takes note of the time: replicas that stall are given up.

        Args:
            elapsed_s: Seconds since the last call.
        """
        for link in self.links:
            link.tick(elapsed_s, is_due=link.num_sequences > 0)
        if self.presence.tick(elapsed_s, is_there=bool(self.links.available)) and self.presence.is_gone:
            for sequence in self._running:
                if sequence.task.rule.evidence is Evidence.ROUTER:
                    sequence.fail(PeerUnavailable(f"router: no replica for {self.presence.grace_s:g} s"))
        self._look_for_lost_weights(elapsed_s)

    # --- LinkPeer

    async def describe(self, channel: grpc.aio.Channel) -> RouterInfo:
        """Asks a replica what it is."""
        stub = router_pb2_grpc.RouterServiceStub(channel)
        return await stub.GetServerInfo(router_pb2.RouterServiceGetServerInfoRequest())

    async def check(self, info: RouterInfo) -> None:
        """Checks that a replica belongs to the pair."""
        refuse_draining(info.replica)
        await self._gate.enter(partial(self._gate.admit_router, info.router))

    def open(
        self, channel: grpc.aio.Channel
    ) -> grpc.aio.StreamStreamCall[router_pb2.ScoreRequest, router_pb2.ScoreResponse]:
        """Opens the stream."""
        return router_pb2_grpc.RouterServiceStub(channel).Score()

    def pack(self, commands: Sequence[router_pb2.ScoreRequest]) -> Sequence[router_pb2.ScoreRequest]:
        """Each step batch is a message of its own."""
        return commands

    def on_ready(self, link: RouterLink, info: RouterInfo) -> None:
        """Has drafts that could not be scored drafted again."""
        link.replica_id = info.replica.replica_id
        self.presence.tick(0.0, is_there=True)
        self._learn(link, info)

    def on_lost(self, link: RouterLink) -> None:
        """Has drafts whose scores won't come drafted again, now or when there is a replica."""
        self._served.pop(link, None)
        lost: set[int] = set()
        for batch_id in [batch_id for batch_id, (owner, _) in self._batches.items() if owner is link]:
            _, rows = self._batches.pop(batch_id)
            lost |= _to_redraft(rows)
        self.num_failovers += len(lost)
        if self.links.available:
            self._redraft(lost)
        else:
            self._unscored |= lost

    def on_response(self, link: RouterLink, response: router_pb2.ScoreResponse) -> None:
        """Gives each score to its sequence, and learns what the replica serves."""
        if response.HasField("news"):
            self._gate.admit_router(response.news.router)
            self._learn(link, response.news)
            return
        if response.weights_unknown:
            self._forget(link, response.batch_id)
            return
        owner, rows = self._batches.get(response.batch_id, (None, []))
        packed = response.divergence_probabilities.data
        if owner is not link or len(packed) != 4 * len(rows):
            raise PeerUnavailable(
                f"router: {len(packed)} bytes of scores for batch {response.batch_id} of {len(rows)} rows"
            )
        probabilities = np.frombuffer(packed, dtype="<f4").tolist()
        # Written so that NaN, which is neither below nor above a threshold, fails it.
        if not all(0 <= probability <= 1 for probability in probabilities):
            raise PeerUnavailable(f"router: a score of batch {response.batch_id} isn't a probability")
        del self._batches[response.batch_id]
        link.num_sequences -= len(rows)
        link.report(num_others=response.num_other_rows)
        for row, probability in zip(rows, probabilities, strict=True):
            row.tell(probability)

    def _holds(self, link: RouterLink, weights: str) -> bool:
        info = self._served.get(link)
        return info is not None and (weights in _held(info) or _is_shadow(info, weights))

    def _learn(self, link: RouterLink, info: RouterInfo) -> None:
        """A replica says what it serves: drafts that nobody could score may find their router."""
        self._served[link] = info
        serve_most(self._gate, [self._served[each].router for each in self.links.available if each in self._served])
        unscored, self._unscored = self._unscored, set()
        self._redraft(unscored)

    def _forget(self, link: RouterLink, batch_id: int) -> None:
        """A replica no longer holds the weights that a batch wanted."""
        owner, rows = self._batches.pop(batch_id, (None, []))
        if owner is not link or not rows:
            raise PeerUnavailable(f"router: it was not asked to score batch {batch_id}")
        link.num_sequences -= len(rows)
        weights = rows[0].router_weights
        known = RouterInfo()
        known.CopyFrom(self._served[link])
        known.held_weights_sha256[:] = [held for held in _held(known) if held != weights]
        if _is_shadow(known, weights):
            known.ClearField("shadow")
        self._served[link] = known
        self._redraft(_to_redraft(rows))

    def _look_for_lost_weights(self, elapsed_s: float) -> None:
        """Ends sequences whose weights no replica has held for the time of grace, while others are there."""
        links = [link for link in self.links.available if link in self._served]
        wanted = {
            sequence.task.rule.router_weights
            for sequence in self._running
            if sequence.task.rule.evidence is Evidence.ROUTER
        }
        lost = {weights for weights in wanted if links and not any(self._holds(link, weights) for link in links)}
        self._absent_s = {weights: self._absent_s.get(weights, -elapsed_s) + elapsed_s for weights in lost}
        gone = {weights for weights, absent_s in self._absent_s.items() if absent_s >= self.presence.grace_s}
        for sequence in self._running if gone else ():
            if (weights := sequence.task.rule.router_weights) in gone:
                sequence.fail(PeerUnavailable(f"router: no replica holds weights {weights[:12]} any more"))

    def _redraft(self, sequence_ids: set[int]) -> None:
        for sequence_id in sequence_ids:
            if sequence := self._running.get(sequence_id):
                sequence.react(RoutingCore.scores_lost)


def serve_most(gate: PairGate, served: Sequence[router_pb2.RouterInfo]) -> None:
    """Lets new sequences have the weights that most replicas serve; those that they have, where there are as many."""
    if gate.pair is None or not served:
        return
    counts = Counter(info.weights_sha256 for info in served)
    current = gate.pair.router_weights
    chosen = max(counts, key=lambda weights: (counts[weights], weights == current))
    found = [info for info in served if info.weights_sha256 == chosen]
    if gate.members.router not in found:
        gate.serve_router(found[0])


def _held(info: RouterInfo) -> Sequence[str]:
    return info.held_weights_sha256 or [info.router.weights_sha256]


def _is_shadow(info: RouterInfo, weights: str) -> bool:
    return info.HasField("shadow") and info.shadow.weights_sha256 == weights


def _to_redraft(rows: Iterable[DraftRow]) -> set[int]:
    """Tells drafts that their scores won't come. Returns the sequences that have to draft again."""
    lost = [row.lost() for row in rows]
    return {sequence_id for sequence_id in lost if sequence_id is not None}


def _if_wants(row: DraftRow | None, weights: str) -> DraftRow | None:
    return row if row is not None and row.router_weights == weights else None


def _select(values: Sequence[int], keep: Sequence[bool]) -> list[int]:
    return [value for value, kept in zip(values, keep, strict=True) if kept]


def _select_rows(tensor: common_pb2.Tensor, keep: Sequence[bool] | None) -> common_pb2.Tensor:
    """Keeps some rows of a [rows, columns] tensor, or all of them if `keep` is None."""
    if keep is None:
        return tensor
    row_bytes = len(tensor.data) // len(keep)
    data = b"".join(
        tensor.data[index * row_bytes : (index + 1) * row_bytes] for index, kept in enumerate(keep) if kept
    )
    return common_pb2.Tensor(dtype=tensor.dtype, shape=[sum(keep), *tensor.shape[1:]], data=data)
