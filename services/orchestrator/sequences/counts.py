"""What an orchestrator has done since its start, as it is told to operators."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from services.orchestrator.routing.actions import AcceptedToken, Source
from services.orchestrator.routing.core import RoutingCore
from services.rules.rule import Rule


def rule_label(rule: Rule) -> str:
    """What a rule is called in metrics: its name and version."""
    return f"{rule.name}@{rule.version}"


@dataclass(slots=True)
class RuleCounts:
    """What became final by one rule's decisions.

    Args:
        num_tokens: Tokens.
        num_llm_tokens: Those that the LLM wrote.
    """

    num_tokens: int = 0
    num_llm_tokens: int = 0


@dataclass(slots=True)
class RequestCounts:
    """Sums over all requests.

    Args:
        num_requests_finished: Requests that reached their end; not those that were cancelled or failed.
        num_slm_tokens: Accepted tokens that the SLM wrote.
        num_llm_tokens: Those that the LLM wrote.
        num_fallback_tokens: Those that the SLM wrote at routed positions, since no LLM was left.
        num_confirmed_tokens: Those that the SLM wrote and the LLM, when it was asked, as well.
        num_drafts_dropped: Drafts that were in vain, of requests that have ended.
        num_answers_dropped: Answers of the LLM that were in vain, of requests that have ended.
        by_rule: Tokens of each rule, by `rule_label`.
    """

    num_requests_finished: int = 0
    num_slm_tokens: int = 0
    num_llm_tokens: int = 0
    num_fallback_tokens: int = 0
    num_confirmed_tokens: int = 0
    num_drafts_dropped: int = 0
    num_answers_dropped: int = 0
    by_rule: dict[str, RuleCounts] = field(default_factory=lambda: defaultdict(RuleCounts))

    @property
    def num_tokens_accepted(self) -> int:
        """Accepted tokens, whoever wrote them."""
        return self.num_slm_tokens + self.num_llm_tokens + self.num_fallback_tokens + self.num_confirmed_tokens

    def accepted(self, tokens: Sequence[AcceptedToken], rule: Rule) -> None:
        """Tokens became final, by a rule's decision."""
        of_rule = self.by_rule[rule_label(rule)]
        of_rule.num_tokens += len(tokens)
        for token in tokens:
            if token.source is Source.SLM:
                self.num_slm_tokens += 1
            elif token.source is Source.LLM:
                self.num_llm_tokens += 1
                of_rule.num_llm_tokens += 1
            elif token.source is Source.SLM_CONFIRMED:
                self.num_confirmed_tokens += 1
            else:
                self.num_fallback_tokens += 1

    def closed(self, core: RoutingCore, *, finished: bool) -> None:
        """A request is over."""
        self.num_requests_finished += finished
        self.num_drafts_dropped += core.num_drafts_dropped
        self.num_answers_dropped += core.num_answers_dropped
