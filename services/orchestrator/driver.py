"""The sequence driver: the one place where the routing core meets the network.

Owns the running sequences, and puts together what they run on. It opens a sequence when its turn has come, hands it
to an SLM and an LLM replica, and frees it everywhere when it ends, for whatever reason. What the tokens are is
decided in `core`; how messages are read and written, in `link`, `slm_side`, `router_side` and `llm_side`; whose turn
it is, in `admission`; which replicas there are, in `link_set`.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Protocol

from transformers import PreTrainedTokenizerFast

from services.common.errors import Cancelled, InvalidRequest, ModelNotReady
from services.common.text import TextAssembler
from services.orchestrator.index.prefix_index import PrefixIndex
from services.orchestrator.index.writer import IndexWriter
from services.orchestrator.replicas.discovery import Discovery, Resolve, resolve_host
from services.orchestrator.replicas.link import CommandT, InfoT, Link, LinkPeer, ResponseT
from services.orchestrator.replicas.link_set import LinkSet
from services.orchestrator.replicas.llm_side import LlmSide
from services.orchestrator.replicas.pair_gate import PairGate
from services.orchestrator.replicas.router_side import RouterSide
from services.orchestrator.replicas.slm_side import SlmSide
from services.orchestrator.requests.admission import Admission
from services.orchestrator.requests.counts import DriverCounts
from services.orchestrator.requests.parse import GenerationTask, ParsedRequest
from services.orchestrator.requests.sequence import RunningSequence
from services.orchestrator.routing.depth import RunAhead
from services.orchestrator.settings import OrchestratorSettings


class _Side(LinkPeer[CommandT, ResponseT, InfoT], Protocol[CommandT, ResponseT, InfoT]):
    """What uses the links to the replicas of one service."""

    links: list[Link[CommandT, ResponseT, InfoT]]


class Driver:
    """Runs sequences over all replicas.

    Args:
        settings: Settings of this process.
        tokenizer: The pair's tokenizer.
        gate: Checks replicas; its pair must be known before the first sequence.
        index: The shared prefix index.
        resolve: Looks up the names among the replicas' addresses.
        draw: Where chance comes from when replicas are chosen.
    """

    def __init__(
        self,
        settings: OrchestratorSettings,
        *,
        tokenizer: PreTrainedTokenizerFast,
        gate: PairGate,
        index: PrefixIndex,
        resolve: Resolve = resolve_host,
        draw: random.Random | None = None,
    ) -> None:
        draw = draw or random.Random()
        self.counts = DriverCounts()
        self._settings = settings
        self._tokenizer = tokenizer
        self._gate = gate
        self._index = index
        self._admission = Admission(settings.max_active_requests, settings.max_waiting_requests)
        self._sequences: dict[int, RunningSequence] = {}
        self._writer = IndexWriter(index, self._sequences, settings.token_log_interval_ms / 1000)
        self._router = RouterSide(self._sequences, gate, draw=draw)
        self._slm = SlmSide(self._sequences, gate, self._router, on_gone=partial(self._writer.lost, "slm"), draw=draw)
        self._llm = LlmSide(
            self._sequences,
            gate,
            on_gone=partial(self._writer.lost, "llm"),
            draw=draw,
            grace_s=settings.llm_grace_s,
        )
        self._slms = self._link_set(settings.slm, self._slm, resolve)
        self._routers = self._link_set(settings.router, self._router, resolve)
        self._llms = self._link_set(settings.llm, self._llm, resolve)

    async def run(self) -> None:
        """Keeps the streams open and the index up to date, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for links in (self._slms, self._routers, self._llms):
                tasks.create_task(links.run())
            tasks.create_task(self._writer.run())

    @property
    def num_active_requests(self) -> int:
        """Requests that run."""
        return self._admission.num_active

    @property
    def num_waiting_requests(self) -> int:
        """Requests that wait for their turn."""
        return self._admission.num_waiting

    @property
    def num_requests_refused(self) -> int:
        """Requests refused because too many waited."""
        return self._admission.num_refused

    @property
    def num_slm_replicas(self) -> int:
        """SLM replicas that take sequences."""
        return self._slms.num_replicas

    @property
    def num_router_replicas(self) -> int:
        """Router replicas that take drafts."""
        return self._routers.num_replicas

    @property
    def num_llm_replicas(self) -> int:
        """LLM replicas that take sequences."""
        return self._llms.num_replicas

    @property
    def num_slm_failovers(self) -> int:
        """Times that a sequence lost its SLM replica, or was handed over by it."""
        return self._slm.num_failovers

    @property
    def num_router_failovers(self) -> int:
        """Times that a sequence lost the router replica that was about to score its drafts."""
        return self._router.num_failovers

    @property
    def num_llm_failovers(self) -> int:
        """Times that a sequence lost its LLM replica, or was handed over by it."""
        return self._llm.num_failovers

    @property
    def num_peer_messages(self) -> int:
        """Messages sent and received on all streams to replicas."""
        return self._slms.num_messages + self._routers.num_messages + self._llms.num_messages

    @asynccontextmanager
    async def sequence(self, request: ParsedRequest | GenerationTask) -> AsyncIterator[RunningSequence]:
        """Runs a sequence for as long as the context is open, and frees it everywhere afterwards.

        Waits first where too many run. The prompt is tokenized once the request has its place.

        Raises:
            ModelNotReady: The pair isn't complete yet.
            CapacityExceeded: Too many requests run, and too many wait.
            Cancelled: The request was cancelled while it waited.
            InvalidRequest: The request id is in use, belongs to another request, or the prompt can't be used.
            ContextLengthExceeded: The prompt leaves no room for one token.
        """
        if self._find(request.request_id):
            # A client that resumes must not wait for the place that its own old stream has.
            self._refuse_second(await request.task())
        async with self._admission.place(request.request_id):
            sequence = await self._open(await request.task())
            try:
                if sequence.running:
                    self._llm.attach(sequence)
                    self._slm.attach(sequence)
                yield sequence
            finally:
                self._close(sequence)

    def cancel(self, request_id: str) -> bool:
        """Ends a request with `Cancelled`. Returns False if none of that name runs or waits here."""
        running = self._find(request_id)
        if running is not None:
            running.fail(Cancelled(f"request {request_id!r} was cancelled"))
        return self._admission.cancel(request_id) or running is not None

    # --- the life of a sequence

    async def _open(self, task: GenerationTask) -> RunningSequence:
        if self._gate.pair is None:
            raise ModelNotReady("the pair isn't complete: no SLM, router or LLM has answered yet")
        resumed = await self._writer.resumed_tokens(task)
        hits = await self._index.lookup([*task.prompt_token_ids, *(token.token_id for token in resumed)])
        # Another one may have been opened meanwhile.
        self._refuse_second(task)
        depth = self._settings.run_ahead_depth if task.run_ahead_depth is None else task.run_ahead_depth
        sequence = RunningSequence(
            sequence_id=1 + secrets.randbits(63),
            task=task,
            eos_token_ids=self._gate.pair.eos_token_ids,
            assembler=TextAssembler(self._tokenizer, task.stop),
            run_ahead=RunAhead(depth),
            hits=hits,
            resumed=resumed,
            counts=self.counts,
            on_end=self._free,
        )
        self._sequences[sequence.sequence_id] = sequence
        self._writer.opened(sequence)
        return sequence

    def _close(self, sequence: RunningSequence) -> None:
        finished = sequence.core.finish_reason is not None
        sequence.apply(sequence.core.cancel())
        del self._sequences[sequence.sequence_id]
        self.counts.closed(sequence.core, finished=finished)
        self._writer.closed(sequence, finished=finished)

    def _free(self, sequence: RunningSequence) -> None:
        """Frees a sequence on the replicas: its client may be slow to take what it has been sent."""
        self._writer.leaving(sequence)
        self._slm.release(sequence)
        self._llm.release(sequence)

    def _find(self, request_id: str) -> RunningSequence | None:
        """The request of this name. One that has ended may still be there, since its client is slow to read."""
        found = [sequence for sequence in self._sequences.values() if sequence.task.request_id == request_id]
        return max(found, key=lambda sequence: sequence.running, default=None)

    def _refuse_second(self, task: GenerationTask) -> None:
        """One request id, one stream: a client that resumes takes its own stream over, another one is refused."""
        running = self._find(task.request_id)
        if running is None:
            return
        if not task.resume_from or running.task.fingerprint() != task.fingerprint():
            raise InvalidRequest(f"request_id: {task.request_id!r} is running already")
        running.fail(Cancelled(f"request {task.request_id!r} was resumed elsewhere"))

    def _link_set(
        self, targets: Sequence[str], side: _Side[CommandT, ResponseT, InfoT], resolve: Resolve
    ) -> LinkSet[CommandT, ResponseT, InfoT]:
        settings = self._settings

        def connect(address: str) -> Link[CommandT, ResponseT, InfoT]:
            return Link(address, side, max_message_mb=settings.max_message_mb, keepalive_s=settings.keepalive_s)

        return LinkSet(
            side.links,
            discovery=Discovery(targets, resolve),
            connect=connect,
            interval_s=settings.discovery_interval_s,
        )
