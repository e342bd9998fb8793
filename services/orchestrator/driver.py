"""The sequence driver: the one place where the routing core meets the network.

Owns the life of sequences, and puts together what they run on. It opens a sequence when its turn has come, hands it
to an SLM and an LLM replica, and frees it everywhere when it ends, for whatever reason. What the tokens are is
decided in the routing core; how messages are read and written, by the replicas' sides; whose turn it is, in
`admission`; which replicas there are, in `link_set`.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

from transformers import PreTrainedTokenizerFast

from services.common.errors import ModelNotReady, PeerUnavailable
from services.common.text.assembler import TextAssembler
from services.orchestrator.index.prefix_index import PrefixIndex
from services.orchestrator.index.writer import IndexWriter
from services.orchestrator.learning.learning import Learning
from services.orchestrator.pair.gate import INCOMPLETE, PairGate
from services.orchestrator.replicas.discovery import Discovery, Resolve, resolve_host
from services.orchestrator.replicas.draft_scores import DraftScores
from services.orchestrator.replicas.link import CommandT, InfoT, Link, LinkPeer, OpenChannel, ResponseT
from services.orchestrator.replicas.link_set import LinkSet
from services.orchestrator.replicas.llm_side import LlmSide
from services.orchestrator.replicas.router_side import RouterSide
from services.orchestrator.replicas.slm_side import SlmSide
from services.orchestrator.requests.admission import Admission
from services.orchestrator.requests.arrivals import Arrivals
from services.orchestrator.requests.parse import ParsedRequest
from services.orchestrator.requests.task import GenerationTask
from services.orchestrator.routing.core import RoutingCore
from services.orchestrator.routing.depth import RunAhead
from services.orchestrator.sequences.counts import RequestCounts
from services.orchestrator.sequences.running import RunningSequences
from services.orchestrator.sequences.sequence import RunningSequence
from services.orchestrator.settings import OrchestratorSettings
from services.rules.rule import Evidence

_TICK_S = 0.25


class Driver:
    """Runs sequences over all replicas.

    Args:
        settings: Settings of this process.
        tokenizer: The pair's tokenizer.
        gate: Checks replicas; its pair must be known before the first sequence.
        index: The shared prefix index.
        open_channel: Opens connections to replicas.
        resolve: Looks up the names among the replicas' addresses.
        draw: Where chance comes from when replicas are chosen.
        default_evidence: What the default rule's scores are computed from.
        learning: What is learnt from requests.
        on_presence: Called with what is missing when a service has gone without which the default rule decides
            nothing, and with None when all are there again.

    Attributes:
        counts: What it has done since its start.
        admission: Who runs and who waits.
        slm, router, llm: The replicas of each service.
    """

    def __init__(
        self,
        settings: OrchestratorSettings,
        *,
        tokenizer: PreTrainedTokenizerFast,
        gate: PairGate,
        index: PrefixIndex,
        open_channel: OpenChannel,
        resolve: Resolve = resolve_host,
        draw: random.Random | None = None,
        default_evidence: Evidence = Evidence.ROUTER,
        learning: Learning | None = None,
        on_presence: Callable[[str | None], None] = lambda _missing: None,
    ) -> None:
        draw = draw or random.Random()
        self.counts = RequestCounts()
        self.admission = Admission(settings.max_active_requests, settings.max_waiting_requests)
        self._settings = settings
        self._tokenizer = tokenizer
        self._gate = gate
        self._index = index
        self._open_channel = open_channel
        self._resolve = resolve
        self._default_evidence = default_evidence
        self._learning = learning or Learning()
        self._on_presence = on_presence
        self._told_missing: str | None = None
        self._arrivals = Arrivals()
        self._running = RunningSequences()
        self._writer = IndexWriter(index, settings.token_log_interval_ms / 1000)
        self.router = RouterSide(
            self._running,
            gate,
            make_links=partial(self._make_links, settings.router),
            draw=draw,
            grace_s=settings.peer_grace_s,
        )
        self.slm = SlmSide(
            self._running,
            gate,
            DraftScores(self.router),
            make_links=partial(self._make_links, settings.slm),
            on_gone=partial(self._writer.lost, "slm"),
            draw=draw,
            grace_s=settings.peer_grace_s,
        )
        self.llm = LlmSide(
            self._running,
            gate,
            make_links=partial(self._make_links, settings.llm),
            on_gone=partial(self._writer.lost, "llm"),
            draw=draw,
            grace_s=settings.llm_grace_s,
        )

    async def run(self) -> None:
        """Keeps the streams open, watches them, and keeps the index up to date, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for side in (self.slm, self.router, self.llm):
                tasks.create_task(side.links.run())
            tasks.create_task(self._writer.run())
            tasks.create_task(self._watch())

    @property
    def num_peer_messages(self) -> int:
        """Messages sent and received on all streams to replicas."""
        return sum(side.links.num_messages for side in (self.slm, self.router, self.llm))

    @property
    def context_len(self) -> int:
        """Longest sequence that every replica takes, in tokens."""
        members = self._gate.members
        # The pair is complete a moment before the streams to its replicas are open.
        return min(
            side.context_len or (member.context_length if member else 0)
            for side, member in ((self.slm, members.slm), (self.llm, members.llm))
        )

    @asynccontextmanager
    async def sequence(self, request: ParsedRequest | GenerationTask) -> AsyncIterator[RunningSequence]:
        """Runs a sequence for as long as the context is open, and frees it everywhere afterwards.

        Waits first where too many run. The prompt is tokenized once the request has its place.

        Raises:
            ModelNotReady: The pair isn't complete yet.
            PeerUnavailable: A service without which nothing runs has gone.
            CapacityExceeded: Too many requests run, and too many wait.
            Cancelled: The request was cancelled, or resumed elsewhere, before it ran.
            InvalidRequest: The request id is in use, belongs to another request, or the prompt can't be used.
            ContextLengthExceeded: The prompt leaves no room for one token.
        """
        async with AsyncExitStack() as stack:
            # Before it waits: a client that resumes must not wait for the place that its own old stream has.
            arrival = await self._arrivals.arrive(request)
            stack.callback(self._arrivals.leave, arrival)
            with arrival:
                await stack.enter_async_context(self.admission.place())
                sequence = arrival.sequence = await self._open(await request.task())
            try:
                self.llm.attach(sequence)
                self.slm.attach(sequence)
                yield sequence
            finally:
                self._close(sequence)

    def cancel(self, request_id: str) -> bool:
        """Ends a request with `Cancelled`. Returns False if none of that name runs or waits here."""
        return self._arrivals.cancel(request_id)

    # --- the life of a sequence

    async def _open(self, task: GenerationTask) -> RunningSequence:
        if self._gate.pair is None:
            raise ModelNotReady(INCOMPLETE)
        if missing := self._missing(task.rule.evidence):
            raise PeerUnavailable(missing)
        resumed = await self._writer.resumed_tokens(task)
        hits = await self._index.lookup([*task.prompt_token_ids, *(token.token_id for token in resumed)])
        depth = self._settings.run_ahead_depth if task.run_ahead_depth is None else task.run_ahead_depth
        sequence = RunningSequence(
            sequence_id=1 + secrets.randbits(63),
            task=task,
            priority=time.time_ns() // 1000,
            eos_token_ids=self._gate.pair.eos_token_ids,
            reader=TextAssembler(self._tokenizer, task.stop),
            run_ahead=RunAhead(depth),
            hits=hits,
            resumed=resumed,
            counts=self.counts,
            on_end=self._free,
        )
        sequence.shadow, sequence.sample = self._learning.begin(task, self.router.shadow)
        self._running.add(sequence)
        self._writer.opened(sequence)
        return sequence

    def _close(self, sequence: RunningSequence) -> None:
        finished = sequence.answer.finish is not None
        sequence.react(RoutingCore.cancel)
        self._running.remove(sequence)
        self.counts.closed(sequence.core, finished=finished)
        self._writer.closed(sequence, finished=finished)

    def _free(self, sequence: RunningSequence) -> None:
        """Frees a sequence on the replicas: its client may be slow to take what it has been sent."""
        self._writer.leaving(sequence)
        self.slm.release(sequence)
        self.llm.release(sequence)

    # --- the replicas

    async def _watch(self) -> None:
        """Looks after the replicas, at a steady pace."""
        loop = asyncio.get_running_loop()
        last = loop.time()
        while True:
            await asyncio.sleep(_TICK_S)
            elapsed_s, last = loop.time() - last, loop.time()
            if self._gate.pair is None:
                continue
            for side in (self.slm, self.router, self.llm):
                side.tick(elapsed_s)
            self._tell_presence()

    def _tell_presence(self) -> None:
        missing = self._missing(self._default_evidence)
        if missing != self._told_missing:
            self._told_missing = missing
            self._on_presence(missing)

    def _missing(self, evidence: Evidence) -> str | None:
        """What has gone of the services without which a rule of that evidence decides nothing."""
        needed = {"slm": self.slm.presence, "router": self.router.presence}
        if evidence is not Evidence.ROUTER:
            del needed["router"]
        gone = [name for name, presence in needed.items() if presence.is_gone]
        return f"{gone[0]}: no replica for {self._settings.peer_grace_s:g} s" if gone else None

    def _make_links(
        self, targets: Sequence[str], peer: LinkPeer[CommandT, ResponseT, InfoT]
    ) -> LinkSet[CommandT, ResponseT, InfoT]:
        return LinkSet(
            peer,
            discovery=Discovery(targets, self._resolve),
            connect=partial(Link, open_channel=self._open_channel, stall_limit_s=self._settings.stall_limit_s),
            interval_s=self._settings.discovery_interval_s,
        )
