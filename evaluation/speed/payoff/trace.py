"""What was decided at each position of answers under a rule: all that speed depends on beside step times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from services.rules.chosen import ChosenRule
from services.rules.decider import Draft, Verdict


@dataclass(frozen=True, slots=True)
class Trace:
    """One answer, position by position.

    Args:
        prompt_len: Tokens of the prompt.
        scores: What the rule's evidence said of each draft; 0 where it needs none.
        agrees: Whether the LLM would write the draft.
        is_sure: Whether the SLM was sure enough of the draft for the message with it to wait for the next ones.
    """

    prompt_len: int
    scores: tuple[float, ...]
    agrees: tuple[bool, ...]
    is_sure: tuple[bool, ...]

    def __post_init__(self) -> None:
        if not len(self.scores) == len(self.agrees) == len(self.is_sure) > 0:
            raise ValueError("scores, agrees, is_sure: as many of each, and at least one")

    def __len__(self) -> int:
        """Tokens of the answer."""
        return len(self.scores)


@dataclass(frozen=True, slots=True)
class RuleTraces:
    """Answers under a rule.

    Args:
        rule: The rule.
        traces: At least one.
    """

    rule: ChosenRule
    traces: tuple[Trace, ...]

    @property
    def num_tokens(self) -> int:
        """Tokens of all answers."""
        return sum(map(len, self.traces))

    def llm_share(self) -> float:
        """Share of the tokens that the LLM is asked about."""
        asked = sum(sum(flags(self.rule, trace)) for trace in self.traces)
        return asked / self.num_tokens

    def agreement(self) -> float:
        """Share of all positions at which the LLM would write the draft."""
        return sum(sum(trace.agrees) for trace in self.traces) / self.num_tokens

    def with_threshold(self, threshold: float) -> RuleTraces:
        """The same texts decided with another threshold. In truth another threshold writes other texts."""
        return replace(self, rule=self.rule.with_threshold(threshold))

    def repeated(self, number: int) -> RuleTraces:
        """Every answer this many times."""
        return replace(self, traces=self.traces * number)


def flags(rule: ChosenRule, trace: Trace) -> Sequence[bool]:
    """At which positions a rule asks the LLM."""
    decider = rule.decider()
    asked = []
    for index, (score, agrees) in enumerate(zip(trace.scores, trace.agrees, strict=True)):
        verdict = decider.verdict(Draft(trace.prompt_len + index, DRAFT, score))
        if decider.in_order:
            stands = agrees or verdict is Verdict.ACCEPT
            decider.accepted(DRAFT if stands else OVERRULING, by_llm=is_by_llm(verdict, agrees=agrees), score=score)
        asked.append(verdict is not Verdict.ACCEPT)
    return asked


def is_by_llm(verdict: Verdict, *, agrees: bool) -> bool:
    """Whether a token counts as the LLM's: where it was asked to write it, or didn't confirm the draft."""
    return verdict is Verdict.ASK or (verdict is Verdict.CONFIRM and not agrees)


DRAFT, OVERRULING = 0, 1
"""Stand for the tokens of both models where only their agreement matters."""
