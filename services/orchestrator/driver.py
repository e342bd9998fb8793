"""The sequence driver: the one place where the routing core meets the network.

Owns the running sequences and the tasks that keep the streams to all replicas open. It opens a sequence, hands it to
an SLM and an LLM replica, and frees it everywhere when it ends, for whatever reason. What the tokens are is decided
in `core`; how messages are read and written, in `link`, `slm_side`, `router_side` and `llm_side`.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerFast

from services.common.errors import Cancelled, CapacityExceeded, InvalidRequest, ModelNotReady
from services.orchestrator.actions import AcceptedToken
from services.orchestrator.depth import RunAhead
from services.orchestrator.link import CommandT, InfoT, Link, LinkPeer, ResponseT
from services.orchestrator.llm_side import LlmSide
from services.orchestrator.pair_gate import PairGate
from services.orchestrator.prefix_index import PrefixIndex
from services.orchestrator.requests import GenerationTask
from services.orchestrator.router_side import RouterSide
from services.orchestrator.sequence import RunningSequence
from services.orchestrator.settings import OrchestratorSettings
from services.orchestrator.slm_side import SlmSide
from services.orchestrator.text import TextAssembler
from services.orchestrator.token_log import LogBatch


@dataclass(slots=True)
class DriverCounts:
    """What the driver has done since the start."""

    num_requests_finished: int = 0
    num_tokens_accepted: int = 0
    num_llm_tokens: int = 0
    num_drafts_dropped: int = 0


class Driver:
    """Runs sequences over all replicas.

    Args:
        settings: Settings of this process.
        tokenizer: The pair's tokenizer.
        gate: Checks replicas; its pair must be known before the first sequence.
        index: The shared prefix index.
    """

    def __init__(
        self,
        settings: OrchestratorSettings,
        *,
        tokenizer: PreTrainedTokenizerFast,
        gate: PairGate,
        index: PrefixIndex,
    ) -> None:
        self.counts = DriverCounts()
        self._settings = settings
        self._tokenizer = tokenizer
        self._gate = gate
        self._index = index
        self._sequences: dict[int, RunningSequence] = {}
        self._num_logged: dict[int, int] = {}
        self._background: set[asyncio.Task[None]] = set()
        self._router = RouterSide(self._sequences, gate)
        self._slm = SlmSide(self._sequences, gate, self._router)
        self._llm = LlmSide(self._sequences, gate)
        self._slm.links.extend(self._link(target, self._slm) for target in settings.slm)
        self._router.links.extend(self._link(target, self._router) for target in settings.router)
        self._llm.links.extend(self._link(target, self._llm) for target in settings.llm)

    async def run(self) -> None:
        """Keeps the streams open and the token logs written, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for link in self._links():
                tasks.create_task(link.run())
            tasks.create_task(self._write_logs())

    @property
    def num_active_requests(self) -> int:
        """Requests that run."""
        return len(self._sequences)

    @property
    def num_peer_messages(self) -> int:
        """Messages sent and received on all streams to replicas."""
        return sum(link.num_messages for link in self._links())

    @asynccontextmanager
    async def sequence(self, task: GenerationTask) -> AsyncIterator[RunningSequence]:
        """Runs a sequence for as long as the context is open, and frees it everywhere afterwards.

        Raises:
            ModelNotReady: The pair isn't complete yet.
            CapacityExceeded: Too many requests run.
            InvalidRequest: The request id is in use, or belongs to another request.
        """
        sequence = await self._open(task)
        try:
            if sequence.running:
                self._llm.attach(sequence)
                self._slm.attach(sequence)
            yield sequence
        finally:
            self._close(sequence)

    def cancel(self, request_id: str) -> bool:
        """Ends a request with `Cancelled`. Returns False if none of that name runs here."""
        running = self._find(request_id)
        if running is not None:
            running.fail(Cancelled(f"request {request_id!r} was cancelled"))
        return running is not None

    # --- the life of a sequence

    async def _open(self, task: GenerationTask) -> RunningSequence:
        if self._gate.pair is None:
            raise ModelNotReady("the pair isn't complete: no SLM, router or LLM has answered yet")
        self._refuse_overload()
        hits = await self._index.lookup(task.prompt_token_ids)
        resumed = await self._resumed_tokens(task)
        # Others may have been opened meanwhile.
        self._refuse_overload()
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
            on_end=self._free,
        )
        self._sequences[sequence.sequence_id] = sequence
        self._num_logged[sequence.sequence_id] = len(resumed)
        return sequence

    def _close(self, sequence: RunningSequence) -> None:
        finished = sequence.core.finish_reason is not None
        sequence.apply(sequence.core.cancel())
        del self._sequences[sequence.sequence_id]
        del self._num_logged[sequence.sequence_id]
        self.counts.num_requests_finished += finished
        self.counts.num_tokens_accepted += len(sequence.completion) - len(sequence.resumed)
        self.counts.num_llm_tokens += sequence.num_llm_tokens
        self.counts.num_drafts_dropped += sequence.core.num_drafts_dropped
        if finished:
            self._in_background(self._index.close_log(sequence.task.request_id))

    def _free(self, sequence: RunningSequence) -> None:
        """Frees a sequence on the replicas: its client may be slow to take what it has been sent."""
        slm, llm = sequence.slm, sequence.llm
        self._slm.release(sequence)
        self._llm.release(sequence)
        if slm or llm:
            slm_id, llm_id = slm and slm.replica_id, llm and sequence.llm_pass_id and llm.replica_id
            self._in_background(self._record_held(sequence, slm_id or None, llm_id or None))

    def _refuse_overload(self) -> None:
        if len(self._sequences) >= self._settings.max_active_requests:
            raise CapacityExceeded(f"max_active_requests: {self._settings.max_active_requests} requests run already")

    def _find(self, request_id: str) -> RunningSequence | None:
        running = (sequence for sequence in self._sequences.values() if sequence.task.request_id == request_id)
        return next(running, None)

    def _refuse_second(self, task: GenerationTask) -> None:
        """One request id, one stream: a client that resumes takes its own stream over, another one is refused."""
        running = self._find(task.request_id)
        if running is None:
            return
        if not task.resume_from or running.task.fingerprint() != task.fingerprint():
            raise InvalidRequest(f"request_id: {task.request_id!r} is running already")
        running.fail(Cancelled(f"request {task.request_id!r} was resumed elsewhere"))

    # --- what other orchestrators should know

    async def _resumed_tokens(self, task: GenerationTask) -> Sequence[AcceptedToken]:
        """The tokens that an earlier stream of this request has accepted; decoding gives the same ones without."""
        log = await self._index.read_log(task.request_id) if task.resume_from else None
        if log is None:
            return ()
        if log.fingerprint != task.fingerprint():
            raise InvalidRequest(
                f"request_id: {task.request_id!r} belongs to a request with another prompt or options"
            )
        return log.tokens[: task.max_new_tokens]

    async def _write_logs(self) -> None:
        while True:
            await asyncio.sleep(self._settings.token_log_interval_ms / 1000)
            if self._index.available:
                running = self._sequences.values()
                news = [s for s in running if len(s.completion) > self._num_logged[s.sequence_id]]
                await self._index.append_logs([self._log_batch(sequence) for sequence in news])

    def _log_batch(self, sequence: RunningSequence) -> LogBatch:
        """Takes what has not been logged yet."""
        start = self._num_logged[sequence.sequence_id]
        self._num_logged[sequence.sequence_id] = len(sequence.completion)
        task = sequence.task
        return LogBatch(task.request_id, task.fingerprint(), start, sequence.completion[start:])

    async def _record_held(self, sequence: RunningSequence, slm_id: str | None, llm_id: str | None) -> None:
        """Tells the index which replicas hold the sequence's prefix now."""
        tokens = list(sequence.core.tokens[: sequence.core.accepted_len])
        if slm_id:
            # The SLM hasn't processed the last token, since nothing follows it.
            await self._index.record("slm", slm_id, sequence.sequence_id, tokens, len(tokens) - 1)
        if llm_id:
            held_len = min(sequence.core.llm_held_len, len(tokens))
            await self._index.record("llm", llm_id, sequence.sequence_id, tokens, held_len)

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    def _link(self, target: str, peer: LinkPeer[CommandT, ResponseT, InfoT]) -> Link[CommandT, ResponseT, InfoT]:
        settings = self._settings
        return Link(target, peer, max_message_mb=settings.max_message_mb, keepalive_s=settings.keepalive_s)

    def _links(self) -> list[Link[Any, Any, Any]]:
        return [*self._slm.links, *self._router.links, *self._llm.links]
