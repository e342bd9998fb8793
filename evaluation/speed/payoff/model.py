"""The model of speed: how long a pair takes to write answers under a rule.

Plays recorded decisions through the routing core itself, in virtual time. So whatever the schedule does (windows,
passes that share questions, rewinds, the depth that adapts) is as it is in service; what is modelled is time alone.
Pure: equal arguments give equal results.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from evaluation.speed.payoff.times import StepTimes
from evaluation.speed.payoff.trace import DRAFT, OVERRULING, RuleTraces, Trace
from services.orchestrator.routing.actions import Action, AskLlm, Finish, GrantSlm, OpenSlm, RewindSlm
from services.orchestrator.routing.core import Ending, RoutingCore
from services.orchestrator.routing.depth import RunAhead
from services.rules.chosen import ChosenRule
from services.rules.rule import Evidence


@dataclass(frozen=True, slots=True)
class Predicted:
    """What writing some answers takes.

    Args:
        num_tokens: Tokens of the answers.
        seconds: From the first request to the last token.
        num_drafts_dropped: Drafts that were made in vain.
    """

    num_tokens: int
    seconds: float
    num_drafts_dropped: int

    @property
    def tokens_per_s(self) -> float:
        """Speed of all streams together."""
        return self.num_tokens / self.seconds


def predict(
    traces: RuleTraces, times: StepTimes, *, depth: int, num_streams: int = 1, hold_s: float = 0.0
) -> Predicted:
    """Predicts how long a pair takes for answers under a rule.

    What it assumes:

    - One draft at a time takes the SLM's hop and step, then the router's answer if the rule asks it. At depth 0 a
      token that the LLM isn't asked about takes just that, and one that it is asked about an LLM pass more, over the
      tokens since the last one: the LLM may have slept meanwhile.
    - With run-ahead the SLM drafts on while the LLM works. Each slows the other down by a constant factor while both
      do. Where the LLM disagrees, the drafts behind are lost, and the SLM goes on from there. What it would have
      drafted after the wrong token is unknown; it counts as decided like what was written there in the end.
    - All sequences that may draft share the SLM's next step, all open questions share the LLM's next pass.
    - Sure drafts wait up to `hold_s` to share a message where a step takes no longer.
    - The orchestrator adds a constant to each message of drafts, scores and answers. With run-ahead it is at work
      beside the models, whose steps take longer by a factor each. Nothing else waits for the models.

    Args:
        traces: The answers, decided.
        times: Of both models and the router.
        depth: Largest run-ahead depth.
        num_streams: Answers that are written at a time.
        hold_s: The SLM service's `draft_hold_ms`, in seconds.

    Raises:
        ValueError: The rule needs a router, and there are no times of one.
    """
    if traces.rule.evidence is Evidence.ROUTER and times.router is None:
        raise ValueError(f"rule {traces.rule.rule.name} needs a router, and there are no times of one")
    return _Run(traces, times, depth, hold_s).play(num_streams)


def predict_plain(traces: Sequence[Trace], times: StepTimes, *, num_streams: int = 1) -> Predicted:
    """What the LLM takes for the same answers by itself, one pass a token, prompts included."""
    num_tokens = sum(map(len, traces))
    prefill_s = sum(times.llm_pass(trace.prompt_len) for trace in traces)
    steps = (num_tokens - len(traces)) / num_streams
    step_s = times.llm_token_s if num_streams == 1 else times.llm_streams(num_streams)
    return Predicted(num_tokens, prefill_s + steps * step_s, 0)


@dataclass(eq=False)
class _Sequence:
    """One answer, with what the SLM knows of it."""

    trace: Trace
    core: RoutingCore
    next_position: int = 0
    draft_until: int = 0
    epoch: int = 0
    prefill_len: int = 0

    @property
    def may_draft(self) -> bool:
        return self.next_position < self.draft_until

    def index(self, position: int) -> int:
        return position - self.trace.prompt_len


@dataclass(eq=False)
class _Worker:
    """A model at work on one step at a time."""

    slowdown: float
    left_s: float = 0.0
    finish: Callable[[], None] | None = None


@dataclass
class _Run:
    """Virtual time, and who is at work in it."""

    traces: RuleTraces
    times: StepTimes
    depth: int
    hold_s: float
    now: float = 0.0
    slm: _Worker = field(init=False)
    llm: _Worker = field(init=False)
    num_dropped: int = 0
    _events: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    _order: Iterator[int] = field(default_factory=itertools.count)
    _running: list[_Sequence] = field(default_factory=list)
    _waiting: list[Trace] = field(default_factory=list)
    _questions: dict[_Sequence, AskLlm] = field(default_factory=dict)
    _held: list[tuple[_Sequence, int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.slm, self.llm = _Worker(self.times.slm_slowdown), _Worker(self.times.llm_slowdown)

    @property
    def rule(self) -> ChosenRule:
        return self.traces.rule

    def play(self, num_streams: int) -> Predicted:
        self._waiting = list(reversed(self.traces.traces))
        for _ in range(min(num_streams, len(self._waiting))):
            self._begin()
        while self._running:
            self._advance()
        return Predicted(self.traces.num_tokens, self.now, self.num_dropped)

    # --- time

    def _after(self, seconds: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now + seconds, next(self._order), event))

    def _advance(self) -> None:
        """Goes on to the next thing that happens."""
        busy = [worker for worker in (self.slm, self.llm) if worker.finish]
        factor = {id(worker): worker.slowdown if len(busy) == 2 else 1.0 for worker in busy}
        first = min(busy, key=lambda worker: worker.left_s * factor[id(worker)], default=None)
        until = self._events[0][0] if self._events else float("inf")
        if first is not None:
            until = min(until, self.now + first.left_s * factor[id(first)])
        is_step = first is not None and (not self._events or until < self._events[0][0])
        for worker in busy:
            worker.left_s -= (until - self.now) / factor[id(worker)]
        self.now = until
        if is_step:
            assert first is not None
            finish, first.finish = first.finish, None
            assert finish is not None
            finish()
        else:
            heapq.heappop(self._events)[2]()
        self._start_slm()
        self._start_llm()

    # --- sequences

    def _begin(self) -> None:
        if not self._waiting:
            return
        trace = self._waiting.pop()
        core = RoutingCore(
            [DRAFT] * trace.prompt_len,
            decider=self.rule.decider(),
            ending=Ending(frozenset(), trace.prompt_len + len(trace)),
            run_ahead=RunAhead(self.depth),
        )
        sequence = _Sequence(trace, core)
        self._running.append(sequence)
        self._carry_out(sequence, core.slm_ready())
        if self.rule.may_ask_llm:
            self._carry_out(sequence, core.llm_ready())

    def _carry_out(self, sequence: _Sequence, actions: Sequence[Action]) -> None:
        for action in actions:
            match action:
                case AskLlm():
                    self._questions[sequence] = action
                case Finish():
                    self.num_dropped += sequence.core.num_drafts_dropped
                    self._running.remove(sequence)
                    self._questions.pop(sequence, None)
                    sequence.draft_until = 0
                    self._begin()
                case OpenSlm() | RewindSlm() | GrantSlm():
                    self._after(self.times.slm_hop_s / 2, lambda told=action: self._tell_slm(sequence, told))  # type: ignore[misc]

    # --- the SLM

    def _tell_slm(self, sequence: _Sequence, action: OpenSlm | RewindSlm | GrantSlm) -> None:
        if sequence.core.finish_reason:
            return
        match action:
            case OpenSlm(token_ids, epoch, draft_until):
                sequence.next_position, sequence.epoch, sequence.draft_until = len(token_ids), epoch, draft_until
                sequence.prefill_len = len(token_ids)
            case RewindSlm(length, token_ids, epoch, draft_until):
                sequence.next_position = length + len(token_ids)
                sequence.epoch, sequence.draft_until = epoch, draft_until
            case GrantSlm(draft_until):
                sequence.draft_until = max(sequence.draft_until, draft_until)

    def _start_slm(self) -> None:
        drafting = [sequence for sequence in self._running if sequence.may_draft]
        if self.slm.finish or not drafting:
            return
        rows = [(sequence, sequence.next_position, sequence.epoch) for sequence in drafting]
        step_s = self.times.slm_step(len(rows))
        prefill_s = sum(self.times.slm_prefill(row.prefill_len) for row in drafting if row.prefill_len)
        is_opening = any(sequence.prefill_len for sequence in drafting)
        for sequence in drafting:
            sequence.prefill_len = 0
        self.slm.left_s = (self.times.slm_crowding if self.depth else 1.0) * (step_s + prefill_s)
        self.slm.finish = lambda: self._drafted(rows, may_hold=step_s <= self.hold_s and not is_opening)

    def _drafted(self, rows: list[tuple[_Sequence, int, int]], *, may_hold: bool) -> None:
        current = [row for row in rows if row[0].epoch == row[2] and row[0].next_position == row[1]]
        for sequence, position, _ in current:
            sequence.next_position += 1
            may_hold = may_hold and sequence.may_draft and sequence.trace.is_sure[sequence.index(position)]
        was_empty = not self._held
        self._held += current
        if not may_hold:
            self._send_held()
        elif was_empty:
            self._after(self.hold_s, self._send_held)

    def _send_held(self) -> None:
        rows, self._held = self._held, []
        if rows:
            self._after(self.times.slm_hop_s / 2 + self.times.draft_s, lambda: self._arrived(rows))

    def _arrived(self, rows: list[tuple[_Sequence, int, int]]) -> None:
        known = [row for row in rows if row[0].core.drafted(row[1], DRAFT, row[2])]
        if self.rule.evidence is Evidence.ROUTER:
            assert self.times.router is not None
            self._after(self.times.router(len(known)) + self.times.score_s, lambda: self._scored(known))
        else:
            self._scored(known)

    def _scored(self, rows: list[tuple[_Sequence, int, int]]) -> None:
        for sequence, position, epoch in rows:
            score = sequence.trace.scores[sequence.index(position)]
            self._carry_out(sequence, sequence.core.scored(position, score, epoch))

    # --- the LLM

    def _start_llm(self) -> None:
        if self.llm.finish or not self._questions:
            return
        asked, self._questions = self._questions, {}
        seconds = self.times.llm_pass(sum(len(question.token_ids) for question in asked.values()))
        if len(asked) > 1:
            seconds = max(seconds, self.times.llm_streams(len(asked)))
        self.llm.left_s = (self.times.llm_crowding if self.depth else 1.0) * seconds
        self.llm.finish = lambda: self._after(self.times.answer_s, lambda: self._answered(asked))

    def _answered(self, asked: dict[_Sequence, AskLlm]) -> None:
        for sequence, question in asked.items():
            agrees = (sequence.trace.agrees[sequence.index(query)] for query in question.query_positions)
            token_ids = [DRAFT if each else OVERRULING for each in agrees]
            self._carry_out(sequence, sequence.core.answered(question.pass_id, token_ids))
