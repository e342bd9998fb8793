"""One request in flight: its routing core, where it runs, and what its client hasn't got yet.

Owns the translation of the core's actions into commands to replicas. Which replicas those are is decided by
`slm_side` and `llm_side`; what the tokens are, by `core`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from trivium.v1 import common_pb2, llm_pb2, slm_pb2

from services.common.text import TextAssembler
from services.orchestrator.index.prefix_index import PrefixHits
from services.orchestrator.requests.counts import DriverCounts
from services.orchestrator.requests.parse import GenerationTask
from services.orchestrator.routing.actions import (
    AcceptedToken,
    Action,
    AskLlm,
    Emit,
    Finish,
    FinishReason,
    GrantSlm,
    OpenSlm,
    RewindSlm,
    Source,
)
from services.orchestrator.routing.core import Ending, RoutingCore
from services.orchestrator.routing.depth import RunAhead

if TYPE_CHECKING:
    from services.orchestrator.replicas.llm_side import LlmLink
    from services.orchestrator.replicas.slm_side import SlmLink


@dataclass(frozen=True, slots=True)
class Progress:
    """Tokens that became final, the text of each, and at the end what was held back. The last one has the reason."""

    tokens: Sequence[AcceptedToken]
    texts: Sequence[str]
    finish_reason: FinishReason | None = None


@dataclass(slots=True)
class PrefillCounts:
    """Prompt tokens one model found in its prefix cache, and tokens that it ran through its passes."""

    num_reused: int = 0
    num_prefilled: int = 0


@dataclass(slots=True)
class RunningSequence:
    """A request in flight.

    Args:
        sequence_id: 64 random bits that name it to the replicas.
        task: What was asked for.
        eos_token_ids: End-of-sequence tokens of either model.
        assembler: Turns its tokens into text.
        run_ahead: Its run-ahead policy.
        hits: What the prefix index knew of its prompt.
        resumed: Tokens that were accepted before, on another orchestrator.
        counts: Where its tokens are counted.
        on_end: Called when it has finished or failed, whether or not its client has got everything. May come twice.
    """

    sequence_id: int
    task: GenerationTask
    eos_token_ids: frozenset[int]
    assembler: TextAssembler
    run_ahead: RunAhead
    hits: PrefixHits = field(default_factory=PrefixHits)
    resumed: Sequence[AcceptedToken] = ()
    counts: DriverCounts = field(default_factory=DriverCounts)
    on_end: Callable[[RunningSequence], None] = lambda _sequence: None
    slm: SlmLink | None = None
    llm: LlmLink | None = None
    slm_prefill: PrefillCounts = field(default_factory=PrefillCounts)
    llm_prefill: PrefillCounts = field(default_factory=PrefillCounts)
    core: RoutingCore = field(init=False)
    completion: list[AcceptedToken] = field(init=False, default_factory=list)
    stop: str = field(init=False, default="")
    llm_pass_id: int = field(init=False, default=0)
    _texts: deque[str] = field(init=False, default_factory=deque)
    _outbox: list[AcceptedToken] = field(init=False, default_factory=list)
    _outbox_texts: list[str] = field(init=False, default_factory=list)
    _changed: asyncio.Event = field(init=False, default_factory=asyncio.Event)
    _error: Exception | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.core = RoutingCore(
            self.task.prompt_token_ids,
            threshold=self.task.threshold,
            ending=Ending(self.eos_token_ids, self.max_len, self._on_accept),
            run_ahead=self.run_ahead,
            resumed=self.resumed,
        )
        self._emit(self.resumed)
        if self.core.finish_reason:
            self._changed.set()

    @property
    def running(self) -> bool:
        """True until it has finished, failed or was cancelled."""
        return self.core.finish_reason is None and self._error is None

    @property
    def max_len(self) -> int:
        """Tokens that it may come to have, prompt and completion together."""
        return len(self.task.prompt_token_ids) + self.task.max_new_tokens

    @property
    def num_llm_tokens(self) -> int:
        """Completion tokens that the LLM wrote."""
        return sum(token.source is Source.LLM for token in self.completion)

    @property
    def num_fallback_tokens(self) -> int:
        """Completion tokens that the SLM wrote at routed positions, since no LLM was left."""
        return sum(token.source is Source.SLM_FALLBACK for token in self.completion)

    def fail(self, error: Exception) -> None:
        """Ends the request with an error."""
        self._error = self._error or error
        self._end()

    def apply(self, actions: Sequence[Action]) -> None:
        """Carries out what the core asks for."""
        for action in actions:
            match action:
                case Emit(tokens):
                    self.counts.accepted(tokens)
                    self._emit(tokens)
                case GrantSlm(draft_until):
                    self._command_slm(grant=slm_pb2.GrantDraft(draft_until=draft_until))
                case RewindSlm(length, token_ids, epoch, draft_until):
                    self._command_slm(
                        rewind=slm_pb2.RewindSequence(
                            length=length, token_ids=token_ids, epoch=epoch, draft_until=draft_until
                        )
                    )
                case OpenSlm(token_ids, epoch, draft_until):
                    self._command_slm(
                        open=slm_pb2.OpenSequence(
                            token_ids=token_ids,
                            epoch=epoch,
                            draft_until=draft_until,
                            stop_token_ids=self.eos_token_ids,
                            sampling=self._sampling(),
                        )
                    )
                case AskLlm():
                    self._ask_llm(action)
                case Finish():
                    self._end()

    async def progress(self, interval_s: float) -> AsyncIterator[Progress]:
        """Yields what became final, at most once in `interval_s` seconds, until the end.

        Raises:
            TriviumError: The request failed.
        """
        loop = asyncio.get_running_loop()
        next_time = 0.0
        while True:
            await self._changed.wait()
            delay = next_time - loop.time()
            if delay > 0 and self.running:
                # Tokens that become final meanwhile share the message.
                await asyncio.sleep(delay)
            if self._error:
                raise self._error
            self._changed.clear()
            next_time = loop.time() + interval_s
            reason = self.core.finish_reason
            if reason and not self.stop:
                self._outbox_texts.append(self.assembler.finish())
            tokens, self._outbox = self._outbox, []
            texts, self._outbox_texts = self._outbox_texts, []
            # The outbox fills again while the caller sends this.
            yield Progress(tokens, texts, reason)
            if reason:
                return

    def _end(self) -> None:
        self._changed.set()
        self.on_end(self)

    def _on_accept(self, token_id: int) -> bool:
        delta = self.assembler.push(token_id)
        self._texts.append(delta.text)
        self.stop = delta.stop or ""
        return delta.stop is not None

    def _emit(self, tokens: Sequence[AcceptedToken]) -> None:
        for token in tokens:
            text = "" if token.token_id in self.eos_token_ids else self._texts.popleft()
            self.completion.append(token)
            # A client that resumes has the first ones already.
            if len(self.completion) > self.task.resume_from:
                self._outbox.append(token)
                self._outbox_texts.append(text)
        if self._outbox:
            self._changed.set()

    def _ask_llm(self, action: AskLlm) -> None:
        assert self.llm is not None, "the core asks only while an LLM is attached"
        self.llm_pass_id = action.pass_id
        self.llm.send(
            llm_pb2.ExtendCommand(
                sequence_id=self.sequence_id,
                extend=llm_pb2.ExtendSequence(
                    base_length=action.base_len,
                    token_ids=action.token_ids,
                    query_positions=action.query_positions,
                    pass_id=action.pass_id,
                    sampling=self._sampling(),
                ),
            )
        )

    def _command_slm(
        self,
        *,
        open: slm_pb2.OpenSequence | None = None,
        rewind: slm_pb2.RewindSequence | None = None,
        grant: slm_pb2.GrantDraft | None = None,
    ) -> None:
        assert self.slm is not None, "the core commands the SLM only while one is attached"
        self.slm.send(slm_pb2.DraftCommand(sequence_id=self.sequence_id, open=open, rewind=rewind, grant=grant))

    def _sampling(self) -> common_pb2.SamplingParams | None:
        sampling = self.task.sampling
        if sampling.temperature == 0:
            return None
        return common_pb2.SamplingParams(
            temperature=sampling.temperature, top_k=sampling.top_k, top_p=sampling.top_p, seed=sampling.seed
        )
