"""One request in flight: its routing core, where it runs, and its answer.

Owns the way of events into the core and of its actions to whom they are for. How an action becomes a message is known
to the replicas' sides; what the tokens are, to the core.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Concatenate, ParamSpec, Protocol

from services.common.errors import TriviumError
from services.orchestrator.index.prefix_index import PrefixHits
from services.orchestrator.learning.sample import SequenceSample
from services.orchestrator.learning.shadow import SequenceShadow
from services.orchestrator.requests.task import GenerationTask
from services.orchestrator.routing.actions import (
    AcceptedToken,
    Action,
    AskLlm,
    Emit,
    Finish,
    GrantSlm,
    OpenSlm,
    RewindSlm,
    TextReader,
)
from services.orchestrator.routing.core import Ending, RoutingCore
from services.orchestrator.routing.depth import RunAhead
from services.orchestrator.sequences.answer import Answer
from services.orchestrator.sequences.counts import RequestCounts

logger = logging.getLogger(__name__)

ReplicaAction = OpenSlm | RewindSlm | GrantSlm | AskLlm
"""What a replica of a model is told."""

P = ParamSpec("P")


class Seat(Protocol):
    """A sequence's place on a replica."""

    @property
    def replica_id(self) -> str:
        """The replica."""

    def carry_out(self, action: ReplicaAction) -> None:
        """Has the replica do it."""


@dataclass(slots=True)
class PrefillCounts:
    """Prompt tokens one model found in its prefix cache, and tokens that it ran through its passes."""

    num_reused: int = 0
    num_prefilled: int = 0

    def add(self, num_reused: int, num_prefilled: int) -> None:
        """A prefix was processed; what the first one found is what counts as found."""
        self.num_reused = self.num_reused or num_reused
        self.num_prefilled += num_prefilled


@dataclass(slots=True, eq=False)
class RunningSequence:
    """A request in flight.

    Args:
        sequence_id: 64 random bits that name it to the replicas.
        task: What was asked for.
        priority: When it was admitted, in microseconds since 1970: where KV is short, older ones go first.
        eos_token_ids: End-of-sequence tokens of either model.
        reader: Turns its tokens into text.
        run_ahead: Its run-ahead policy.
        hits: What the prefix index knew of its prompt.
        resumed: Tokens that were accepted before, on another orchestrator.
        counts: Where its tokens are counted.
        on_end: Called when it has finished or failed, whether or not its client has got everything. May come twice.
    """

    sequence_id: int
    task: GenerationTask
    priority: int
    eos_token_ids: frozenset[int]
    reader: TextReader
    run_ahead: RunAhead
    hits: PrefixHits = field(default_factory=PrefixHits)
    resumed: Sequence[AcceptedToken] = ()
    counts: RequestCounts = field(default_factory=RequestCounts)
    on_end: Callable[[RunningSequence], None] = lambda _sequence: None
    shadow: SequenceShadow | None = field(init=False, default=None)
    """Counts what a second rule would have decided."""
    sample: SequenceSample | None = field(init=False, default=None)
    """Keeps some of its drafts."""
    slm: Seat | None = field(init=False, default=None)
    llm: Seat | None = field(init=False, default=None)
    slm_prefill: PrefillCounts = field(init=False, default_factory=PrefillCounts)
    llm_prefill: PrefillCounts = field(init=False, default_factory=PrefillCounts)
    core: RoutingCore = field(init=False)
    answer: Answer = field(init=False)

    def __post_init__(self) -> None:
        self.answer = Answer(self.task.resume_from or 0)
        self.core = RoutingCore(
            self.task.prompt_token_ids,
            decider=self.task.rule.decider(),
            ending=Ending(self.eos_token_ids, self.max_len, self.reader),
            run_ahead=self.run_ahead,
            resumed=self.resumed,
        )
        for action in self.core.begin():
            self._carry_out(action, is_new=False)

    @property
    def running(self) -> bool:
        """True until it has finished, failed or was cancelled."""
        return not self.answer.over

    @property
    def completion(self) -> Sequence[AcceptedToken]:
        """Its final tokens."""
        return self.answer.completion

    @property
    def max_len(self) -> int:
        """Tokens that it may come to have, prompt and completion together."""
        return len(self.task.prompt_token_ids) + self.task.max_new_tokens

    def fail(self, error: Exception) -> None:
        """Ends the request with an error."""
        self.answer.fail(error)
        self.on_end(self)

    def react(
        self, event: Callable[Concatenate[RoutingCore, P], list[Action]], *args: P.args, **kw: P.kwargs
    ) -> None:
        """Tells the core of an event, and carries out what it asks for.

        A defect that this uncovers costs this sequence alone: it fails, and is told of in the log.
        """
        if not self.running:
            return
        try:
            for action in event(self.core, *args, **kw):
                self._carry_out(action)
        except Exception:
            logger.exception("sequence failed in %s", event.__name__)
            self.fail(TriviumError("internal error"))

    def _carry_out(self, action: Action, *, is_new: bool = True) -> None:
        match action:
            case Emit(tokens):
                if is_new:
                    self.counts.accepted(tokens, self.task.rule.rule)
                for observer in (self.shadow, self.sample):
                    if observer is not None:
                        observer.accepted(tokens)
                self.answer.put(action)
            case Finish():
                self.answer.end(action)
                self.on_end(self)
            case AskLlm():
                assert self.llm is not None, "the core asks only while an LLM is attached"
                self.llm.carry_out(action)
            case _:
                assert self.slm is not None, "the core commands the SLM only while one is attached"
                self.slm.carry_out(action)
