"""A decision depends on the prefix and the draft alone.

Owns what is held of deciders without the core: one asked the same says the same, whatever other sequences and other
positions are decided meanwhile; one with state, rebuilt from the accepted tokens, says what the one says that saw
them come.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

from services.rule_suite.scores import rows_of
from services.rule_suite.strategies import chosen_rules
from services.rules.chosen import THRESHOLD, ChosenRule
from services.rules.decider import Decider, Draft, Verdict
from services.rules.rule import Evidence, Rule


@dataclass(frozen=True)
class Step:
    """A position: what is drafted there, and what the LLM would write.

    Args:
        draft: The SLM's token.
        score: The draft's.
        answer: The LLM's token.
        has_llm: Whether there is an LLM to ask.
    """

    draft: int
    score: float
    answer: int
    has_llm: bool


@dataclass(frozen=True)
class Decisions:
    """A sequence that is decided.

    Args:
        parameters: Of the rule.
        prompt_len: Tokens before the first step.
        steps: Its positions.
    """

    parameters: dict[str, float]
    prompt_len: int
    steps: tuple[Step, ...]


_Told = tuple[Draft, Verdict, tuple[int, bool]]


class Decided:
    """Decides one sequence as the core does: asks, and tells what became of it."""

    def __init__(self, decider: Decider, prompt_len: int) -> None:
        self.seen: list[_Told] = []
        """Drafts, verdicts, and what was accepted: the token, and whether it is the LLM's."""
        self._decider = decider
        self._position = prompt_len

    def decide(self, step: Step) -> Verdict:
        """Decides the next position."""
        draft = Draft(self._position, step.draft, step.score)
        verdict = self._decider.verdict(draft)
        is_llms = verdict is not Verdict.ACCEPT and step.has_llm
        if verdict is Verdict.CONFIRM and step.answer == step.draft:
            is_llms = False
        accepted = (step.answer if is_llms else step.draft, is_llms)
        if self._decider.in_order:
            _tell(self._decider, draft, accepted)
        self.seen.append((draft, verdict, accepted))
        self._position += 1
        return verdict


def sequences(rule: Rule) -> st.SearchStrategy[Decisions]:
    """Sequences of any drafts, scores and answers."""
    tokens = st.integers(0, 99)
    step = st.builds(Step, tokens, _scores(rule), tokens, st.sampled_from([True, True, True, False]))
    return st.builds(
        Decisions,
        chosen_rules(rule).map(lambda chosen: dict(chosen.parameters)),
        st.integers(1, 1000),
        st.lists(step, min_size=1, max_size=30).map(tuple),
    )


def broken_decisions(rule: Rule, example: Decisions) -> str | None:
    """How a rule breaks the promise of its verdicts; None if it doesn't."""
    chosen = ChosenRule.of(rule, example.parameters)
    decider = chosen.decider()
    if not isinstance(decider.in_order, bool):
        return f"in_order: expected True or False, got {decider.in_order!r}"
    live, other = Decided(decider, example.prompt_len), Decided(chosen.decider(), example.prompt_len)
    for position, step in enumerate(example.steps):
        # Another sequence goes through other steps meanwhile.
        other.decide(example.steps[-1 - position])
        verdict = live.decide(step)
        if not isinstance(verdict, Verdict):
            return f"expected a Verdict, got {verdict!r}"
        if verdict is not Verdict.ACCEPT and not rule.needs_llm:
            return f"it needs no LLM (needs_llm), and answers {verdict.name}"
    return _broken_rebuilt(chosen, live) if decider.in_order else _broken_order(chosen, live)


def broken_threshold(rule: Rule, example: Decisions) -> str | None:
    """How a rule that has a threshold breaks what it means; None if it doesn't.

    Budgets are turned into thresholds, so a higher one must ask no more; and larger scores must be asked no less.
    """
    chosen = ChosenRule.of(rule, example.parameters)
    live = Decided(chosen.decider(), example.prompt_len)
    for step in example.steps:
        live.decide(step)
    *before, (last, verdict, _) = live.seen
    if verdict is not Verdict.ACCEPT:
        return None
    lowered = Draft(last.position, last.token_id, min(last.score, 0.0))
    parameter = rule.parameters[THRESHOLD]
    raised = min(chosen.parameters[THRESHOLD] + 1, parameter.most)
    for other, draft, what in (
        (chosen.with_threshold(raised), last, f"threshold {raised:g}"),
        (chosen, lowered, f"score {lowered.score:g}"),
    ):
        decider = _told(other, before)
        if (asked := decider.verdict(draft)) is not Verdict.ACCEPT:
            return (
                f"score {last.score:g} gets ACCEPT at threshold {chosen.parameters[THRESHOLD]:g}, and {asked.name} "
                f"with {what}: a higher threshold must ask no more, a lower score be asked no more"
            )
    return None


def _tell(decider: Decider, draft: Draft, accepted: tuple[int, bool]) -> None:
    token_id, by_llm = accepted
    # As token logs keep it.
    decider.accepted(token_id, by_llm=by_llm, score=float(np.float32(draft.score)))


def _told(chosen: ChosenRule, seen: list[_Told]) -> Decider:
    decider = chosen.decider()
    if decider.in_order:
        for draft, _, accepted in seen:
            _tell(decider, draft, accepted)
    return decider


def _broken_rebuilt(chosen: ChosenRule, live: Decided) -> str | None:
    for index, (draft, verdict, _) in enumerate(live.seen):
        rebuilt = _told(chosen, live.seen[:index]).verdict(draft)
        if rebuilt is not verdict:
            return (
                f"{draft} gets {verdict.name}, and {rebuilt.name} of a decider that is rebuilt from the {index} "
                "tokens before it: its state has to be a function of what `accepted` tells"
            )
    return None


def _broken_order(chosen: ChosenRule, live: Decided) -> str | None:
    backwards = chosen.decider()
    ask: list[tuple[str, Callable[[Draft], Verdict]]] = [
        ("by a decider that was asked about nothing else", lambda draft: chosen.decider().verdict(draft)),
        ("by one that was asked about later positions first", backwards.verdict),
        ("when it is asked again", backwards.verdict),
    ]
    for draft, verdict, _ in reversed(live.seen):
        for how, verdict_of in ask:
            if (other := verdict_of(draft)) is not verdict:
                return (
                    f"{draft} gets {verdict.name}, and {other.name} {how}: a decider with state says so by in_order"
                )
    return None


def _scores(rule: Rule) -> st.SearchStrategy[float]:
    match rule.evidence:
        case Evidence.NONE:
            return st.just(0.0)
        case Evidence.ROUTER:
            return st.floats(0, 1, width=32)
    return st.integers(0, 2**16).map(lambda seed: float(rule.scores(rows_of([seed]))[0]))
