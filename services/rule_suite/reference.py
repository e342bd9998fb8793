"""The law of a rule, run one token at a time: what every schedule has to come to.

Written straight from the definition: at each position a new decider, which is told of the tokens before it and asked
once. So accept(x, s) depends on the prefix x and the draft s alone, whatever a rule keeps elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from services.orchestrator.routing.actions import AcceptedToken, FinishReason, Source
from services.orchestrator.routing.core import Ending
from services.rule_suite.models import EOS, Models, PairReader
from services.rules.chosen import ChosenRule
from services.rules.decider import Decider, Draft, Verdict
from services.rules.rule import DraftRows, Evidence


@dataclass(frozen=True)
class Case:
    """One sequence to decode.

    Args:
        models: What writes.
        prompt: At least one token.
        rule: What decides.
        max_len: Limit of prompt and completion together.
        stop_pair: Two tokens that end it when they follow each other.
    """

    models: Models
    prompt: tuple[int, ...]
    rule: ChosenRule
    max_len: int
    stop_pair: tuple[int, int] | None = None

    def ending(self) -> Ending:
        """Ends at EOS, at `max_len`, or when the two tokens of `stop_pair` follow each other."""
        return Ending(frozenset({EOS}), self.max_len, PairReader(self.stop_pair))

    def score(
        self,
        prefix: Sequence[int],
        draft: int,
        *,
        before: Sequence[Sequence[int]] = (),
        after: Sequence[Sequence[int]] = (),
    ) -> float:
        """The rule's score of a draft.

        Args:
            prefix: The tokens before it.
            draft: The draft.
            before: Prefixes whose drafts stand before it in the batch.
            after: Those that stand behind it.
        """
        match self.rule.evidence:
            case Evidence.NONE:
                return 0.0
            case Evidence.ROUTER:
                return self.models.router(prefix, draft)
        top_logits = np.stack([self.models.top_logits(one) for one in (*before, prefix, *after)])
        token_ids = np.full(len(top_logits), draft, dtype=np.int64)
        return float(self.rule.rule.scores(DraftRows(top_logits, token_ids))[len(before)])


Law = Callable[[Case, Sequence[int], Sequence[AcceptedToken]], AcceptedToken]
"""What comes after a prefix: given the case, the prefix with its prompt, and its completion."""


def tell(decider: Decider, tokens: Sequence[AcceptedToken]) -> None:
    """Tells a decider with state of tokens that are final."""
    if decider.in_order:
        for token in tokens:
            decider.accepted(token.token_id, by_llm=token.source is Source.LLM, score=token.score)


def lawful_token(case: Case, tokens: Sequence[int], written: Sequence[AcceptedToken]) -> AcceptedToken:
    """What the rule says after a prefix.

    Args:
        case: Whose rule and models.
        tokens: The prefix, prompt included.
        written: Its completion.
    """
    decider = case.rule.decider()
    tell(decider, written)
    draft = case.models.slm(tokens)
    score = case.score(tokens, draft)
    verdict = decider.verdict(Draft(len(tokens), draft, score))
    if verdict is Verdict.ACCEPT:
        return AcceptedToken(draft, Source.SLM, score)
    answer = case.models.llm(tokens)
    is_confirmed = verdict is Verdict.CONFIRM and answer == draft
    return AcceptedToken(answer, Source.SLM_CONFIRMED if is_confirmed else Source.LLM, score)


def reference_decoding(case: Case, law: Law = lawful_token) -> tuple[list[AcceptedToken], FinishReason]:
    """The loop of `services.orchestrator.routing.core`'s docstring, one token at a time."""
    tokens, ending = list(case.prompt), case.ending()
    accepted: list[AcceptedToken] = []
    while True:
        accepted.append(law(case, tokens, accepted))
        token_id = accepted[-1].token_id
        tokens.append(token_id)
        if token_id == EOS or ending.text.push(token_id)[1]:
            return accepted, FinishReason.STOP
        if len(tokens) == case.max_len:
            return accepted, FinishReason.LENGTH
