"""Builds requests from what was typed.

Owns which option becomes which field of a request. Every command that asks builds its requests here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trivium.v1 import common_pb2
from trivium.v1 import orchestrator_pb2 as pb

from services.cli.ask.options import LossPolicy
from services.cli.errors import CliError

_LOSS_POLICIES = {
    # The server's default; requests stay as short as they were.
    LossPolicy.WAIT: pb.LLM_LOSS_POLICY_UNSPECIFIED,
    LossPolicy.SLM_ONLY: pb.LLM_LOSS_POLICY_SLM_ONLY,
    LossPolicy.FAIL: pb.LLM_LOSS_POLICY_FAIL,
}


@dataclass(frozen=True, slots=True)
class Limits:
    """What a request asks for beside its prompt; None leaves the server's default.

    Args:
        max_new_tokens: Tokens to write at most.
        threshold: Divergence probability from which the LLM writes a token.
        stop: Strings that end the answer.
        sampling: How tokens are chosen; None is greedy.
        target_llm_usage: Share of tokens that the LLM is to write, instead of a threshold.
        target_avg_params_b: Billions of parameters that a token is to take on average, instead of a threshold.
        llm_loss_policy: What to do while no LLM replica is left.
    """

    max_new_tokens: int | None = None
    threshold: float | None = None
    stop: Sequence[str] = ()
    sampling: common_pb2.SamplingParams | None = None
    target_llm_usage: float | None = None
    target_avg_params_b: float | None = None
    llm_loss_policy: LossPolicy = LossPolicy.WAIT

    def __post_init__(self) -> None:
        """Refuses more than one way to say when the LLM writes.

        Raises:
            CliError: Naming the options.
        """
        options = [
            f"--{name.replace('_', '-')}"
            for name in ("threshold", "target_llm_usage", "target_avg_params_b")
            if getattr(self, name) is not None
        ]
        if len(options) > 1:
            raise CliError(f"give {' or '.join(options)}, not {'both' if len(options) == 2 else 'all'}")


def sampling(temperature: float, top_k: int, top_p: float, seed: int) -> common_pb2.SamplingParams | None:
    """How tokens are chosen; None, which is greedy, for temperature 0."""
    if temperature == 0:
        return None
    return common_pb2.SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)


def question_request(question: str, limits: Limits) -> pb.GenerateRequest:
    """A request with one message of the user."""
    return chat_request([pb.ChatMessage(role="user", content=question)], limits)


def chat_request(messages: Sequence[pb.ChatMessage], limits: Limits) -> pb.GenerateRequest:
    """A request with a conversation."""
    return _request(pb.GenerateRequest(chat=pb.ChatMessages(messages=messages)), limits)


def text_request(text: str, limits: Limits) -> pb.GenerateRequest:
    """A request with plain text, without a chat template."""
    return _request(pb.GenerateRequest(text=text), limits)


def _request(request: pb.GenerateRequest, limits: Limits) -> pb.GenerateRequest:
    if limits.max_new_tokens is not None:
        request.max_new_tokens = limits.max_new_tokens
    if limits.threshold is not None:
        request.threshold = limits.threshold
    if limits.target_llm_usage is not None:
        request.target_llm_usage = limits.target_llm_usage
    if limits.target_avg_params_b is not None:
        request.target_avg_params_b = limits.target_avg_params_b
    if limits.sampling is not None:
        request.sampling.CopyFrom(limits.sampling)
    request.stop.extend(limits.stop)
    request.llm_loss_policy = _LOSS_POLICIES[limits.llm_loss_policy]
    return request
