"""The fields that aren't served: which would change an answer and are refused, and which can't and are passed over.

Owns the two tables. A field that would change the output is never taken and dropped in silence.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from services.gateway.errors import UNSUPPORTED, ApiError

logger = logging.getLogger(__name__)

_ROUTED = "a routed token has no distribution of its own"
_FORM = "answers can't be held to a form"
_TAIL = "what a template or tokenizer does is the pair's own"

REFUSED: Mapping[str, tuple[Sequence[object], str]] = {
    "logprobs": ([False], f"{_ROUTED}; include_token_sources tells each token's divergence probability"),
    "top_logprobs": ([0], _ROUTED),
    "prompt_logprobs": ([0], _ROUTED),
    "logit_bias": ([{}], f"{_ROUTED} that it could change"),
    "presence_penalty": ([0], f"{_ROUTED} that it could change"),
    "frequency_penalty": ([0], f"{_ROUTED} that it could change"),
    "repetition_penalty": ([1], f"{_ROUTED} that it could change"),
    "length_penalty": ([1], "there is no beam search"),
    "use_beam_search": ([False], "there is no beam search"),
    "min_p": ([0], "top_k and top_p are served"),
    "typical_p": ([1], "top_k and top_p are served"),
    "min_tokens": ([0], "an end that both models agree on can't be put off"),
    "response_format": ([{"type": "text"}], _FORM),
    "structured_outputs": ([{}], _FORM),
    "json_schema": ([], _FORM),
    "regex": ([""], _FORM),
    "ebnf": ([""], _FORM),
    "grammar": ([""], _FORM),
    "functions": ([[]], "send tools"),
    "function_call": (["none", "auto"], "send tools"),
    "modalities": ([["text"]], "only text is written"),
    "audio": ([], "only text is written"),
    "web_search_options": ([], "nothing is searched"),
    "verbosity": (["medium"], "say it in a message"),
    "reasoning_effort": ([], "send what the chat template knows as chat_template_kwargs"),
    "echo": ([False], "only plain prompts are given back"),
    "suffix": ([""], "text is written at its end alone"),
    "best_of": ([1], "n answers are written and n returned"),
    "stop_token_ids": ([[]], "send stop"),
    "bad_words": ([[]], f"{_ROUTED} that it could change"),
    "allowed_token_ids": ([[]], f"{_ROUTED} that it could change"),
    "include_stop_str_in_output": ([False], "a stop string is never part of the answer"),
    "skip_special_tokens": ([True], _TAIL),
    "spaces_between_special_tokens": ([True], _TAIL),
    "add_special_tokens": ([False], _TAIL),
    "truncate_prompt_tokens": ([], _TAIL),
    "chat_template": ([""], _TAIL),
    "documents": ([[]], "put them into a message"),
    "return_token_ids": ([False], "include_token_sources returns them"),
}
"""Fields that would change an answer: the values at which they don't, and what to know or do."""

GUIDED = "guided_"
"""How the names of more of them begin."""

IGNORED = frozenset(
    {
        "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key",
        "prompt_cache_retention", "prediction",
    }
)  # fmt: skip
"""Fields of OpenAI's that can't change an answer."""


def check_fields(body: Mapping[str, Any], served: Collection[str]) -> None:
    """Refuses what would change the answer and isn't served; passes over what nobody knows.

    Args:
        body: A request.
        served: Names of the fields that are read elsewhere.

    Raises:
        ApiError: Names the first field that is refused.
    """
    for name, value in body.items():
        if value is None or name in served or name in IGNORED:
            continue
        if name in REFUSED:
            neutral, why = REFUSED[name]
            if not any(_same(value, each) for each in neutral):
                raise refusal(name, why)
        elif name.startswith(GUIDED):
            raise refusal(name[:64], _FORM)
        else:
            logger.debug("unknown field passed over", extra={"field": name[:64]})


def refusal(param: str, why: str) -> ApiError:
    """A field that isn't served as it stands."""
    return ApiError(UNSUPPORTED, f"{param}: not served: {why}", param)


def _same(value: object, neutral: object) -> bool:
    return value == neutral and isinstance(value, bool) == isinstance(neutral, bool)
