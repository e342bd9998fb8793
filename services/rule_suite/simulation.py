"""A simulated cluster around one routing core.

The peers keep the wire contract and nothing more: the SLM holds the tokens it was told and drafts within its window,
the LLM answers from the tokens *it* holds (so a wrong delta gives a wrong token), links deliver in any order and may
lose what is under way when a peer dies.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

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
from services.orchestrator.routing.core import RoutingCore
from services.orchestrator.routing.depth import RunAhead
from services.rule_suite.models import EOS, Models
from services.rule_suite.reference import Case, Law, lawful_token
from services.rules.decider import Decider, Draft, Verdict


class Watched:
    """Notices a core that breaks the promises that `Decider` makes, and a rule that answers with no verdict."""

    def __init__(self, decider: Decider, next_position: int) -> None:
        self.in_order = decider.in_order
        self._decider = decider
        self._next = next_position
        self._was_asked = False

    def verdict(self, draft: Draft) -> Verdict:
        """Asks the rule."""
        if self.in_order:
            assert draft.position == self._next, "the tokens before it are not final"
            assert not self._was_asked, "it has decided about this position"
            self._was_asked = True
        verdict = self._decider.verdict(draft)
        assert isinstance(verdict, Verdict), f"expected a Verdict, got {verdict!r}"
        return verdict

    def accepted(self, token_id: int, *, by_llm: bool, score: float) -> None:
        """Tells the rule."""
        assert self.in_order, "it keeps no state"
        self._next, self._was_asked = self._next + 1, False
        self._decider.accepted(token_id, by_llm=by_llm, score=score)


@dataclass
class SimulatedSlm:
    """Drafts within its window from the tokens it holds."""

    models: Models
    tokens: list[int]
    epoch: int
    draft_until: int
    paused: bool = False
    num_drafts: int = 0

    def can_draft(self) -> bool:
        """Whether there is room in its window."""
        return not self.paused and len(self.tokens) < self.draft_until

    def draft(self) -> tuple[int, int, int, tuple[int, ...]]:
        """Drafts a token: its position, the token, the epoch, and what it was drafted after."""
        prefix = tuple(self.tokens)
        token_id = self.models.slm(prefix)
        self.tokens.append(token_id)
        self.paused = token_id == EOS
        self.num_drafts += 1
        return len(prefix), token_id, self.epoch, prefix

    def rewind(self, action: RewindSlm) -> None:
        """Goes back, and on from there."""
        assert action.length <= len(self.tokens), "rewind beyond what the SLM holds"
        self.tokens = [*self.tokens[: action.length], *action.token_ids]
        self.epoch, self.draft_until, self.paused = action.epoch, action.draft_until, False


@dataclass
class SimulatedLlm:
    """Answers from the tokens it holds; tells what it needs when it holds too few."""

    models: Models
    tokens: list[int] = field(default_factory=list)

    def extend(self, action: AskLlm) -> tuple[list[int] | None, int]:
        """Runs a pass: its answers; or None, and how many tokens it holds."""
        if action.base_len > len(self.tokens):
            return None, len(self.tokens)
        self.tokens = [*self.tokens[: action.base_len], *action.token_ids]
        for position in action.query_positions:
            assert action.base_len < position <= len(self.tokens)
        return [self.models.llm(self.tokens[:position]) for position in action.query_positions], 0


class Simulation:
    """Runs one core under a random schedule.

    Args:
        case: What it decodes.
        depth: How far the SLM may run ahead.
        rng: Draws the schedule.
        faults: Probability of a fault at each step.
        resumed: Tokens accepted in an earlier life of the sequence.
    """

    def __init__(
        self,
        case: Case,
        *,
        depth: int,
        rng: random.Random,
        faults: float = 0.0,
        resumed: Sequence[AcceptedToken] = (),
    ) -> None:
        self.case = case
        self.rng = rng
        self.faults = faults
        self.run_ahead = RunAhead(depth)
        self.core = RoutingCore(
            case.prompt,
            decider=Watched(case.rule.decider(), len(case.prompt)),
            ending=case.ending(),
            run_ahead=self.run_ahead,
            resumed=resumed,
        )
        self.emitted: list[AcceptedToken] = []
        self.finish: FinishReason | None = None
        self.slm: SimulatedSlm | None = None
        self.llm = SimulatedLlm(case.models)
        self.llm_attached = False
        self.asks: list[AskLlm] = []
        self.scores: list[tuple[int, float, int]] = []
        self.drafts: list[tuple[int, int, int, tuple[int, ...]]] = []
        self.answers: list[tuple[int, list[int] | None, int]] = []
        self.num_queries = 0
        self.goes_on_without_llm = False
        self.llm_absent = False
        self.first_loss: int | None = None
        """How many tokens had been emitted when the core was first told to go on without an LLM."""
        self.unrouted: set[int] = set()
        """Positions that were in the hypothesis at some time while there was no LLM."""

    def assert_follows_the_rule(self, law: Law = lawful_token) -> None:
        """Each token is what the rule says after the tokens before it; fallbacks only where there was no LLM."""
        tokens = list(self.case.prompt)
        for index, token in enumerate(self.emitted):
            expected = law(self.case, tokens, self.emitted[:index])
            if expected.source is not Source.SLM and token.source is Source.SLM_FALLBACK:
                assert len(tokens) in self.unrouted, "there was an LLM to ask"
                expected = AcceptedToken(self.case.models.slm(tokens), Source.SLM_FALLBACK, expected.score)
            assert token == expected, f"token {index} is {token}, and has to be {expected}"
            tokens.append(token.token_id)

    def run(self, max_steps: int = 100_000) -> None:
        """Runs the schedule to its end.

        Raises:
            AssertionError: The core breaks a promise, or doesn't come to an end.
        """
        self.apply(self.core.begin())
        self.apply(self.core.llm_ready())
        self.llm_attached = True
        self.apply(self.core.slm_ready())
        for _ in range(max_steps):
            if self.finish:
                return
            self.step()
        raise AssertionError("no progress: the schedule ran out of steps")

    def step(self) -> None:
        """One thing happens."""
        if self.rng.random() < self.faults:
            self.rng.choice([self.lose_slm, self.lose_llm, self.lose_scores, self.forget, self.saturate])()
            return
        moves = [move for ready, move in self.moves() if ready]
        assert moves, "deadlock: nothing is under way and the sequence has not ended"
        self.rng.choice(moves)()
        if self.llm_absent:
            self.unrouted.update(range(self.core.accepted_len, len(self.core.tokens)))

    def moves(self) -> list[tuple[bool, Callable[[], None]]]:
        """What can happen without a fault, and whether it can now."""
        return [
            (self.slm is None, self.attach_slm),
            (not self.llm_attached, self.attach_llm),
            (self.goes_on_without_llm and not self.llm_attached and not self.llm_absent, self.go_on_without_llm),
            (self.slm is not None and self.slm.can_draft(), self.draft),
            (bool(self.drafts), self.deliver_draft),
            (bool(self.scores), self.deliver_score),
            (bool(self.asks) and self.llm_attached, self.run_llm),
            (bool(self.answers), self.deliver_answer),
        ]

    def apply(self, actions: list[Action]) -> None:
        """Does what the core asks for."""
        for action in actions:
            assert self.finish is None, "no action follows Finish"
            match action:
                case OpenSlm(token_ids, epoch, draft_until):
                    self.slm = SimulatedSlm(self.case.models, list(token_ids), epoch, draft_until)
                case RewindSlm():
                    assert self.slm is not None
                    self.slm.rewind(action)
                case GrantSlm(draft_until):
                    assert self.slm is not None
                    self.slm.draft_until = draft_until
                case AskLlm():
                    assert self.llm_attached
                    assert all(position < self.case.max_len for position in action.query_positions)
                    self.asks = [action]
                case Emit(tokens, texts):
                    self.emitted.extend(tokens)
                    assert texts == tuple("" if t.token_id == EOS else f"{t.token_id} " for t in tokens)
                case Finish(reason, text, stop):
                    self.finish = reason
                    assert (text, stop) in (("held", ""), ("", "stop"))

    # --- peers at work

    def draft(self) -> None:
        """The SLM drafts."""
        assert self.slm is not None
        assert len(self.slm.tokens) <= self.core.accepted_len + self.run_ahead.maximum, "drafted past the depth"
        self.drafts.append(self.slm.draft())

    def deliver_draft(self) -> None:
        """A draft arrives."""
        # One SLM's drafts arrive in order; those of a lost one may still come late.
        index = 0 if self.rng.random() < 0.9 else self.rng.randrange(len(self.drafts))
        first_of_epoch = next(i for i, d in enumerate(self.drafts) if d[2] == self.drafts[index][2])
        position, token_id, epoch, prefix = self.drafts.pop(first_of_epoch)
        if self.core.drafted(position, token_id, epoch):
            assert tuple(self.core.tokens[:-1]) == prefix
            others = [[(*prefix, index) for index in range(self.rng.randrange(3))] for _ in range(2)]
            score = self.case.score(prefix, token_id, before=others[0], after=others[1])
            self.scores.append((position, score, epoch))

    def deliver_score(self) -> None:
        """A score arrives; once more later, now and then."""
        score = self.scores.pop(self.rng.randrange(len(self.scores)))
        if self.rng.random() < 0.05:
            self.scores.append(score)
        self.apply(self.core.scored(*score))

    def run_llm(self) -> None:
        """The LLM runs what it was asked for last."""
        action = self.asks.pop()
        token_ids, held_len = self.llm.extend(action)
        self.num_queries += len(token_ids or ())
        self.answers.append((action.pass_id, token_ids, held_len))

    def deliver_answer(self) -> None:
        """An answer arrives; once more later, now and then."""
        pass_id, token_ids, held_len = self.answers.pop(self.rng.randrange(len(self.answers)))
        if token_ids is None:
            self.apply(self.core.llm_needs(pass_id, held_len))
        else:
            if self.rng.random() < 0.05:
                self.answers.append((pass_id, token_ids, held_len))
            self.apply(self.core.answered(pass_id, token_ids))

    # --- faults

    def lose_slm(self) -> None:
        """The SLM dies; its last drafts may be lost or come late."""
        if self.slm is not None:
            self.slm = None
            if self.rng.random() < 0.5:
                self.drafts.clear()
            self.apply(self.core.slm_lost())

    def attach_slm(self) -> None:
        """There is an SLM again."""
        self.apply(self.core.slm_ready())

    def lose_llm(self) -> None:
        """The LLM dies; its last answers may be lost or come late."""
        if self.llm_attached:
            self.llm_attached = False
            self.llm = SimulatedLlm(self.case.models)
            self.asks.clear()
            if self.rng.random() < 0.5:
                self.answers.clear()
            self.apply(self.core.llm_lost())

    def go_on_without_llm(self) -> None:
        """Nobody expects an LLM soon."""
        self.llm_absent = True
        if self.first_loss is None:
            self.first_loss = len(self.emitted)
        self.unrouted.update(range(self.core.accepted_len, len(self.core.tokens)))
        self.apply(self.core.llm_absent())

    def attach_llm(self) -> None:
        """There is an LLM again."""
        self.llm_attached = True
        self.llm_absent = False
        self.apply(self.core.llm_ready())

    def lose_scores(self) -> None:
        """The router dies with the scores it owed."""
        self.scores.clear()
        self.apply(self.core.scores_lost())

    def forget(self) -> None:
        """The LLM evicts the sequence behind the core's back."""
        self.llm.tokens = self.llm.tokens[: self.rng.randrange(len(self.llm.tokens) + 1)]

    def saturate(self) -> None:
        """The SLM can't fit all its sequences into a step, or can again."""
        self.core.slm_saturation(self.rng.random() < 0.5)
