"""The figures of an answer, as a person reads them.

Owns units and wording; the numbers themselves come from the orchestrator's usage.
"""

from __future__ import annotations

from dataclasses import dataclass

from trivium.v1 import orchestrator_pb2 as pb

_UNITS = ((1e9, "B"), (1e6, "M"), (1e3, "K"))


@dataclass(frozen=True, slots=True)
class PairSize:
    """Number of parameters of both models, and the longest sequence in tokens; 0 where that isn't known."""

    slm: int
    llm: int
    context_len: int = 0


def unit_of(count: float) -> tuple[float, str]:
    """The unit that a number of parameters is best read in, as its size and its letter."""
    return next((unit for unit in _UNITS if count >= unit[0]), (1.0, ""))


def parameters(count: float, unit: tuple[float, str] | None = None) -> str:
    """Formats a number of parameters with two significant digits, e.g. "0.31M".

    Args:
        count: How many.
        unit: From `unit_of`, so that numbers that are compared share one; the best for this number if None.
    """
    size, letter = unit or unit_of(count)
    value = count / size
    digits = 0 if value >= 10 else 1 if value >= 1 else 2
    return f"{value:.{digits}f}{letter}"


def average_parameters(usage: pb.Usage, size: PairSize) -> str:
    """The average activated parameters against both models, e.g. "0.31M of 3.0M (10%; SLM alone 0.10M)"."""
    unit = unit_of(size.llm)
    average = usage.avg_activated_params_b * 1e9
    share = average / size.llm
    alone = parameters(size.slm, unit)
    return f"{parameters(average, unit)} of {parameters(size.llm, unit)} ({share:.0%}; SLM alone {alone})"


def cut_off(finish: pb.Finish, size: PairSize) -> str:
    """Why an answer stops before its end, as a line for a person; empty where it doesn't.

    Args:
        finish: From its last message.
        size: The pair's.
    """
    if finish.reason != pb.FINISH_REASON_LENGTH:
        return ""
    usage = finish.usage
    if size.context_len and usage.num_prompt_tokens + usage.num_completion_tokens >= size.context_len:
        return f"the answer is cut off: the context of {size.context_len} tokens is full"
    return f"the answer is cut off after {usage.num_completion_tokens} tokens (--max-new-tokens)"


def summary(usage: pb.Usage, size: PairSize, seconds: float) -> str:
    """The line below an answer.

    Args:
        usage: From the last message of the answer.
        size: The pair's.
        seconds: From the request to the last token.
    """
    tokens = usage.num_completion_tokens
    fallback = usage.num_fallback_tokens
    without = f"; {fallback} by the SLM instead, with no LLM left" if fallback else ""
    reused = f"SLM {usage.num_slm_tokens_reused}, LLM {usage.num_llm_tokens_reused}"
    return " · ".join(
        (
            f"{tokens} tokens, {usage.num_llm_tokens} ({usage.llm_usage_rate:.1%}) by the LLM{without}",
            f"average parameters {average_parameters(usage, size)}",
            f"{tokens / seconds:.0f} tokens/s",
            f"prefix reused of {usage.num_prompt_tokens} tokens: {reused}",
        )
    )
