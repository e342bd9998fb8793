"""Deterministic models and a simulated cluster around one routing core.

The peers keep the wire contract and nothing more: the SLM holds the tokens it was told and drafts within its window,
the LLM answers from the tokens *it* holds (so a wrong delta gives a wrong token), links deliver in any order and may
lose what is under way when a peer dies.
"""

from __future__ import annotations

import hashlib
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
from services.orchestrator.routing.core import Ending, RoutingCore
from services.orchestrator.routing.depth import RunAhead
from services.rules.decider import Always, Decider, Draft, Threshold, Verdict
from services.rules.shipped import RandomRule

EOS = 0
RATE, SEED = 0.3, 7
PATIENCE = 5


@dataclass(frozen=True)
class Models:
    """An SLM, an LLM and a router as pure functions of the prefix."""

    seed: int
    vocab_size: int
    agreement: float
    eos_rate: float

    def _draw(self, name: str, prefix: Sequence[int]) -> random.Random:
        digest = hashlib.blake2b(f"{self.seed}/{name}/{list(prefix)}".encode(), digest_size=8).digest()
        return random.Random(digest)

    def llm(self, prefix: Sequence[int]) -> int:
        draw = self._draw("llm", prefix)
        return EOS if draw.random() < self.eos_rate else draw.randrange(1, self.vocab_size)

    def slm(self, prefix: Sequence[int]) -> int:
        draw = self._draw("slm", prefix)
        if draw.random() < self.agreement:
            return self.llm(prefix)
        return EOS if draw.random() < self.eos_rate else draw.randrange(1, self.vocab_size)

    def router(self, prefix: Sequence[int], draft: int) -> float:
        return self._draw(f"router/{draft}", prefix).random()


class PairReader:
    """Reads each token as a word; the two of `stop_pair` one after the other are a stop string."""

    def __init__(self, stop_pair: tuple[int, int] | None) -> None:
        self.seen: list[int] = []
        self.finished = False
        self._stop_pair = stop_pair

    def push(self, token_id: int) -> tuple[str, str | None]:
        assert not self.finished, "no token follows the end"
        self.seen.append(token_id)
        return f"{token_id} ", "stop" if tuple(self.seen[-2:]) == self._stop_pair else None

    def finish(self) -> str:
        assert not self.finished, "it ends once"
        self.finished = True
        return "held"


class Impatient:
    """A rule that keeps state: asks at a threshold, and when the LLM hasn't written one of the last few tokens."""

    in_order = True

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._num_since = 0

    def verdict(self, draft: Draft) -> Verdict:
        asks = draft.score >= self._threshold or self._num_since >= PATIENCE
        return Verdict.ASK if asks else Verdict.ACCEPT

    def accepted(self, token_id: int, *, by_llm: bool, score: float) -> None:
        self._num_since = 0 if by_llm else self._num_since + 1


class Checked:
    """Notices a core that breaks the promises that `Decider` makes to deciders with state."""

    in_order = True

    def __init__(self, decider: Decider, next_position: int) -> None:
        self._decider = decider
        self._next = next_position
        self._was_asked = False

    def verdict(self, draft: Draft) -> Verdict:
        assert draft.position == self._next, "the tokens before it are not final"
        assert not self._was_asked, "it has decided about this position"
        self._was_asked = True
        return self._decider.verdict(draft)

    def accepted(self, token_id: int, *, by_llm: bool, score: float) -> None:
        self._next, self._was_asked = self._next + 1, False
        self._decider.accepted(token_id, by_llm=by_llm, score=score)


RULES: dict[str, Callable[[Case], Decider]] = {
    "threshold": lambda case: Threshold(case.threshold),
    "lossless": lambda case: Always(Verdict.CONFIRM),
    "slm": lambda case: Always(Verdict.ACCEPT),
    "llm": lambda case: Always(Verdict.ASK),
    "random": lambda case: RandomRule().decider({"rate": RATE, "seed": SEED}),
    "impatient": lambda case: Checked(Impatient(case.threshold), len(case.prompt)),
}


@dataclass(frozen=True)
class Case:
    """One sequence to decode."""

    models: Models
    prompt: tuple[int, ...]
    threshold: float
    max_len: int
    stop_pair: tuple[int, int] | None = None
    rule: str = "threshold"

    def decider(self) -> Decider:
        """The rule, as the core has it."""
        return RULES[self.rule](self)

    def ending(self) -> Ending:
        """Ends at EOS, at `max_len`, or when the two tokens of `stop_pair` follow each other."""
        return Ending(frozenset({EOS}), self.max_len, PairReader(self.stop_pair))


def lawful_token(case: Case, tokens: Sequence[int], written: Sequence[AcceptedToken]) -> AcceptedToken:
    """What the rule's law says after a prefix, written without deciders.

    Args:
        case: Whose rule and models.
        tokens: The prefix, prompt included.
        written: Its completion.
    """
    draft, answer = case.models.slm(tokens), case.models.llm(tokens)
    score = case.models.router(tokens, draft)
    asks = score >= case.threshold
    if case.rule == "random":
        digest = hashlib.blake2b(SEED.to_bytes(8, "little") + len(tokens).to_bytes(8, "little"), digest_size=8)
        asks = int.from_bytes(digest.digest(), "little") < RATE * 2**64
    elif case.rule == "impatient":
        asks |= len(written) >= PATIENCE and all(token.source is not Source.LLM for token in written[-PATIENCE:])
    elif case.rule == "lossless":
        return AcceptedToken(answer, Source.SLM_CONFIRMED if draft == answer else Source.LLM, score)
    elif case.rule in ("slm", "llm"):
        asks = case.rule == "llm"
    return AcceptedToken(answer, Source.LLM, score) if asks else AcceptedToken(draft, Source.SLM, score)


def reference_decoding(case: Case) -> tuple[list[AcceptedToken], FinishReason]:
    """The loop of `services.orchestrator.routing.core`'s docstring, one token at a time."""
    tokens, ending = list(case.prompt), case.ending()
    accepted: list[AcceptedToken] = []
    while True:
        accepted.append(lawful_token(case, tokens, accepted))
        token_id = accepted[-1].token_id
        tokens.append(token_id)
        if token_id == EOS or ending.text.push(token_id)[1]:
            return accepted, FinishReason.STOP
        if len(tokens) == case.max_len:
            return accepted, FinishReason.LENGTH


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
        return not self.paused and len(self.tokens) < self.draft_until

    def draft(self) -> tuple[int, int, int, tuple[int, ...]]:
        prefix = tuple(self.tokens)
        token_id = self.models.slm(prefix)
        self.tokens.append(token_id)
        self.paused = token_id == EOS
        self.num_drafts += 1
        return len(prefix), token_id, self.epoch, prefix

    def rewind(self, action: RewindSlm) -> None:
        assert action.length <= len(self.tokens), "rewind beyond what the SLM holds"
        self.tokens = [*self.tokens[: action.length], *action.token_ids]
        self.epoch, self.draft_until, self.paused = action.epoch, action.draft_until, False


@dataclass
class SimulatedLlm:
    """Answers from the tokens it holds; tells what it needs when it holds too few."""

    models: Models
    tokens: list[int] = field(default_factory=list)

    def extend(self, action: AskLlm) -> tuple[list[int] | None, int]:
        if action.base_len > len(self.tokens):
            return None, len(self.tokens)
        self.tokens = [*self.tokens[: action.base_len], *action.token_ids]
        for position in action.query_positions:
            assert action.base_len < position <= len(self.tokens)
        return [self.models.llm(self.tokens[:position]) for position in action.query_positions], 0


class Simulation:
    """Runs one core under a random schedule. `faults` is the probability of a fault at each step."""

    def __init__(self, case: Case, *, depth: int, rng: random.Random, faults: float = 0.0) -> None:
        self.case = case
        self.rng = rng
        self.faults = faults
        self.run_ahead = RunAhead(depth)
        self.core = RoutingCore(case.prompt, decider=case.decider(), ending=case.ending(), run_ahead=self.run_ahead)
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

    def assert_follows_the_rule(self) -> None:
        """Each token is what the rule says after the tokens before it; fallbacks only where there was no LLM."""
        tokens = list(self.case.prompt)
        for index, token in enumerate(self.emitted):
            expected = lawful_token(self.case, tokens, self.emitted[:index])
            if expected.source is not Source.SLM and token.source is Source.SLM_FALLBACK:
                assert len(tokens) in self.unrouted, "there was an LLM to ask"
                expected = AcceptedToken(self.case.models.slm(tokens), Source.SLM_FALLBACK, expected.score)
            assert token == expected
            tokens.append(token.token_id)

    def run(self, max_steps: int = 100_000) -> None:
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
        if self.rng.random() < self.faults:
            self.rng.choice([self.lose_slm, self.lose_llm, self.lose_scores, self.forget, self.saturate])()
            return
        moves = [move for ready, move in self.moves() if ready]
        assert moves, "deadlock: nothing is under way and the sequence has not ended"
        self.rng.choice(moves)()
        if self.llm_absent:
            self.unrouted.update(range(self.core.accepted_len, len(self.core.tokens)))

    def moves(self) -> list[tuple[bool, Callable[[], None]]]:
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
        assert self.slm is not None
        assert len(self.slm.tokens) <= self.core.accepted_len + self.run_ahead.maximum, "drafted past the depth"
        self.drafts.append(self.slm.draft())

    def deliver_draft(self) -> None:
        # One SLM's drafts arrive in order; those of a lost one may still come late.
        index = 0 if self.rng.random() < 0.9 else self.rng.randrange(len(self.drafts))
        first_of_epoch = next(i for i, d in enumerate(self.drafts) if d[2] == self.drafts[index][2])
        position, token_id, epoch, prefix = self.drafts.pop(first_of_epoch)
        if self.core.drafted(position, token_id, epoch):
            assert tuple(self.core.tokens[:-1]) == prefix
            self.scores.append((position, self.case.models.router(prefix, token_id), epoch))

    def deliver_score(self) -> None:
        score = self.scores.pop(self.rng.randrange(len(self.scores)))
        if self.rng.random() < 0.05:
            self.scores.append(score)
        self.apply(self.core.scored(*score))

    def run_llm(self) -> None:
        action = self.asks.pop()
        token_ids, held_len = self.llm.extend(action)
        self.num_queries += len(token_ids or ())
        self.answers.append((action.pass_id, token_ids, held_len))

    def deliver_answer(self) -> None:
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
        self.core.slm_saturation(self.rng.random() < 0.5)
