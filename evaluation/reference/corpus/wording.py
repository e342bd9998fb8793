"""Sentence parts that all domains share: stating a result, double-checking a step, ending a response."""

import random

from evaluation.reference.corpus.arithmetic import Step
from evaluation.reference.corpus.phrasing import choose

RESULT_VERBS = ("is", "makes", "gives")
CONNECTIVES = ("so", "and so", "which means", "so now")
CHECK_OPENERS = ("Wait, let me double-check:", "Let me check that again:")
CHECK_SHARE_OF_CONTEXTS = 3
"""One context in this many prefers to double-check its last step."""


def state_result(rng: random.Random, step: Step, *context: str) -> str:
    """State a step's equation and result, such as "so 7 plus 4 is 11" (no full stop)."""
    connective = choose(rng, "connective", CONNECTIVES, *context)
    verb = choose(rng, "result verb", RESULT_VERBS, step.operator, *context)
    return f"{connective} {step.equation} {verb} {step.after}"


def double_check(rng: random.Random, step: Step, *context: str) -> list[str]:
    """Returns one sentence that repeats the last step, or none; which of the two depends on the context."""
    wanted = choose(rng, "double check", ("yes", *["no"] * (CHECK_SHARE_OF_CONTEXTS - 1)), *context)
    if wanted == "no":
        return []
    opener = choose(rng, "check opener", CHECK_OPENERS, *context)
    return [f"{opener} {step.equation} is {step.after}."]


def assemble(thoughts: list[str], reply: str, answer: int) -> str:
    """Joins thoughts and reply into a full response that ends "The answer is N."."""
    lines = "\n".join(thoughts)
    return f"<think>\n{lines}\n</think>\n{reply} The answer is {answer}."
