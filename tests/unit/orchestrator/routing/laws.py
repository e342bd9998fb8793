"""The laws of some rules, written without deciders: what the core's tests hold deciders and core to."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence

from services.orchestrator.routing.actions import AcceptedToken, Source
from services.rule_suite.reference import Case
from services.rules.chosen import ChosenRule
from services.rules.decider import Decider, Draft, Verdict
from services.rules.shipped import LlmRule, LosslessRule, RandomRule, RouterRule, SlmRule

RATE, SEED = 0.3, 7
PATIENCE = 5


class _Impatient:
    in_order = True

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._num_since = 0

    def verdict(self, draft: Draft) -> Verdict:
        asks = draft.score >= self._threshold or self._num_since >= PATIENCE
        return Verdict.ASK if asks else Verdict.ACCEPT

    def accepted(self, token_id: int, *, by_llm: bool, score: float) -> None:
        self._num_since = 0 if by_llm else self._num_since + 1


class ImpatientRule(RouterRule):
    """A rule that keeps state: asks at a threshold, and when the LLM hasn't written one of the last few tokens."""

    name = "impatient"

    def decider(self, parameters: Mapping[str, float]) -> Decider:
        return _Impatient(parameters["threshold"])


RULES: dict[str, Callable[[float], ChosenRule]] = {
    "router": lambda threshold: ChosenRule.of(RouterRule(), {"threshold": threshold}),
    "lossless": lambda _: ChosenRule.of(LosslessRule()),
    "slm": lambda _: ChosenRule.of(SlmRule()),
    "llm": lambda _: ChosenRule.of(LlmRule()),
    "random": lambda _: ChosenRule.of(RandomRule(), {"rate": RATE, "seed": SEED}),
    "impatient": lambda threshold: ChosenRule.of(ImpatientRule(), {"threshold": threshold}),
}
"""Rules by name, of a threshold."""


def lawful_token(case: Case, tokens: Sequence[int], written: Sequence[AcceptedToken]) -> AcceptedToken:
    """What the rule's law says after a prefix.

    Args:
        case: Whose rule and models.
        tokens: The prefix, prompt included.
        written: Its completion.
    """
    name = case.rule.rule.name
    draft, answer = case.models.slm(tokens), case.models.llm(tokens)
    score = case.models.router(tokens, draft) if name in ("router", "impatient") else 0.0
    asks = case.rule.threshold is not None and score >= case.rule.threshold
    if name == "random":
        digest = hashlib.blake2b(SEED.to_bytes(8, "little") + len(tokens).to_bytes(8, "little"), digest_size=8)
        asks = int.from_bytes(digest.digest(), "little") < RATE * 2**64
    elif name == "impatient":
        asks |= len(written) >= PATIENCE and all(token.source is not Source.LLM for token in written[-PATIENCE:])
    elif name == "lossless":
        return AcceptedToken(answer, Source.SLM_CONFIRMED if draft == answer else Source.LLM, score)
    elif name in ("slm", "llm"):
        asks = name == "llm"
    return AcceptedToken(answer, Source.LLM, score) if asks else AcceptedToken(draft, Source.SLM, score)
