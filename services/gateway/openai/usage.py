"""What a request took, as OpenAI's `usage` has it, with who wrote the tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from services.common.rule_spec import RuleSpec
from services.gateway.openai.choice import Choice


def usage(choices: Sequence[Choice], num_each: int) -> dict[str, Any]:
    """The usage of a request that has ended.

    Args:
        choices: All of its choices, those of a prompt one after the other.
        num_each: Choices of each prompt, which counts once.
    """
    found = [choice.finish.usage for choice in choices if choice.finish is not None]
    num_tokens = sum(each.num_completion_tokens for each in found)
    num_llm = sum(each.num_llm_tokens for each in found)
    weighted = sum(each.avg_activated_params_b * each.num_completion_tokens for each in found)
    totals = _totals(sum(each.num_prompt_tokens for each in found[::num_each]), num_tokens, num_llm)
    cached = sum(each.num_slm_tokens_reused for each in found[::num_each])
    return {
        **totals,
        "prompt_tokens_details": {"cached_tokens": cached},
        "avg_activated_params_b": round(weighted / num_tokens, 9) if num_tokens else 0.0,
        "threshold": round(found[0].threshold, 6),
        "rule": str(RuleSpec(found[0].used_rule.rule.name, found[0].used_rule.rule.parameters)),
        "rule_version": found[0].used_rule.version,
    }


def running_usage(choices: Sequence[Choice], num_each: int) -> dict[str, Any]:
    """The same of one that runs, as far as it is known."""
    return _totals(
        sum(choice.num_prompt_tokens for choice in choices[::num_each]),
        sum(choice.num_tokens for choice in choices),
        sum(choice.num_llm_tokens for choice in choices),
    )


def _totals(num_prompt: int, num_tokens: int, num_llm: int) -> dict[str, Any]:
    return {
        "prompt_tokens": num_prompt,
        "completion_tokens": num_tokens,
        "total_tokens": num_prompt + num_tokens,
        "llm_tokens": num_llm,
        "llm_usage_rate": round(num_llm / num_tokens, 6) if num_tokens else 0.0,
    }
