"""Asks running orchestrators one question, as an evaluation needs it: patiently."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

import grpc
from trivium.v1 import orchestrator_pb2 as pb

from services.client import AsyncClient, Completion, GenerationFailed, Options, chat_request
from services.common.rule_spec import RuleSpec

logger = logging.getLogger(__name__)

TIMEOUT_S = 86_400.0
"""Seconds that an answer may take: an evaluation's may be long, and wait for many others."""

_NUM_ATTEMPTS = 8
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0


class LiveError(RuntimeError):
    """A question can't be asked. The message names it and what the orchestrator said."""


@dataclass(frozen=True)
class Asking:
    """How every question is asked; what is None is left to the orchestrator. At most one of threshold and targets is.

    Attributes:
        threshold: The LLM writes a token from this divergence probability on.
        target_llm_usage: LLM usage rate that the orchestrator finds a threshold for.
        target_avg_params_b: Billions of parameters that a token takes on average, that it finds a threshold for.
        max_new_tokens: Limit of a response.
        rule: Decides who writes a token, as "entropy:threshold=0.7".

    Raises:
        ValueError: The rule isn't written like that.
    """

    threshold: float | None = None
    target_llm_usage: float | None = None
    max_new_tokens: int | None = None
    rule: str | None = None
    target_avg_params_b: float | None = None

    def __post_init__(self) -> None:
        if self.rule is not None:
            RuleSpec.parse(self.rule)

    @property
    def rule_name(self) -> str | None:
        """The rule's name; None for the orchestrator's default."""
        return RuleSpec.parse(self.rule).name if self.rule is not None else None

    def request(self, prompt: str) -> pb.GenerateRequest:
        """A request with one user message, decoded greedily."""
        return chat_request(
            prompt,
            Options(
                rule=self.rule,
                threshold=self.threshold,
                target_llm_usage=self.target_llm_usage,
                target_avg_params_b=self.target_avg_params_b,
                max_new_tokens=self.max_new_tokens,
            ),
        )


async def ask(client: AsyncClient, question_id: str, request: pb.GenerateRequest) -> Completion:
    """Asks a question; asks again while the orchestrators are full.

    Args:
        client: Goes on where an orchestrator is away.
        question_id: Named in errors.
        request: The question.

    Raises:
        LiveError: The request is refused, or the orchestrators stay away or full.
    """
    pause_s = _FIRST_PAUSE_S
    for attempt in range(1, _NUM_ATTEMPTS + 1):
        try:
            return await client.complete(request)
        except GenerationFailed as failure:
            if failure.code is not grpc.StatusCode.RESOURCE_EXHAUSTED or attempt == _NUM_ATTEMPTS:
                raise LiveError(f"question {question_id!r}: {failure}") from failure
            logger.info("question %s: %s; asked again in %.1f s", question_id, failure, pause_s)
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
    raise AssertionError("the last attempt returns or raises")
