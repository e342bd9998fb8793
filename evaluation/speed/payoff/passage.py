"""What the orchestrator adds to the models' steps, from a few speeds that were measured through it.

Owns which speeds those are. Each has one unknown beside what is known from the steps and the speeds before: a draft
that stands at once, one that is scored and stands, one that the LLM is asked about, drafting ahead by the SLM alone,
and drafting ahead of an LLM that is asked about everything. Pure.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from evaluation.speed.payoff.model import predict
from evaluation.speed.payoff.times import StepTimes
from evaluation.speed.payoff.trace import RuleTraces
from services.rules.chosen import THRESHOLD, ChosenRule
from services.rules.registry import Rules
from services.rules.sweep import SLM_ONLY_THRESHOLD as NOTHING_REACHES


@dataclass(frozen=True, slots=True)
class Passage:
    """A setting whose speed tells what one way through the orchestrator takes.

    Args:
        rule: Decides alike about every draft.
        depth: Run-ahead depth.
    """

    rule: ChosenRule
    depth: int


NUM_PASSAGES = 5
"""At most."""


def passages(rules: Rules, depth: int, *, has_router: bool) -> dict[str, Passage]:
    """The settings by what they tell, in an order in which each needs those before it alone.

    Args:
        rules: The shipped ones among them.
        depth: Run-ahead depth of the predictions.
        has_router: Whether the pair has a router.
    """
    slm, llm = (ChosenRule.of(rules.named(name)) for name in ("slm", "llm"))
    found = {"draft": Passage(slm, 0), "answer": Passage(llm, 0)}
    if has_router:
        found["score"] = Passage(ChosenRule.of(rules.named("router"), {THRESHOLD: NOTHING_REACHES}), 0)
    return found | {"ahead": Passage(slm, depth), "ahead of the LLM": Passage(llm, depth)}


def with_passages(
    times: StepTimes,
    traces: Mapping[str, RuleTraces],
    settings: Mapping[str, Passage],
    speeds: Mapping[str, Sequence[float]],
    hold_s: float,
) -> StepTimes:
    """Adds what the orchestrator takes.

    Args:
        times: Of the models' steps.
        traces: What rules decided, those of `slm` and `llm` among them.
        settings: As `passages` makes them: each tells one thing, given those before it.
        speeds: Tokens/s of one stream by setting, one value a repetition.
        hold_s: The SLM service's `draft_hold_ms`, in seconds.
    """
    for name, setting in settings.items():
        # What matters is when the LLM is asked: the SLM's own texts serve every rule that never does.
        texts = traces["llm" if setting.rule.may_ask_llm else "slm"].traces
        predicted = predict(RuleTraces(setting.rule, texts), times, depth=setting.depth, hold_s=hold_s)
        measured_s, predicted_s = 1 / statistics.median(speeds[name]), 1 / predicted.tokens_per_s
        added_s = max(0.0, measured_s - predicted_s)
        match name:
            case "draft":
                times = replace(times, draft_s=added_s)
            case "answer":
                times = replace(times, answer_s=added_s)
            case "score":
                times = replace(times, score_s=added_s)
            case "ahead":
                times = replace(times, slm_crowding=max(1.0, measured_s / predicted_s))
            case "ahead of the LLM":
                times = replace(times, llm_crowding=max(1.0, measured_s / predicted_s))
    return times
