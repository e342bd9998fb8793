"""Builds requests: everything in the project that asks an orchestrator builds them here."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from trivium.v1 import common_pb2
from trivium.v1 import orchestrator_pb2 as pb

from services.common.rule_spec import RuleSpec

MAX_NEW_TOKENS = 2**31 - 1
_UINT32, _UINT64 = 2**32 - 1, 2**64 - 1


class LossPolicy(StrEnum):
    """What a request does while no replica of the LLM is left: waits, goes on with the SLM, or fails."""

    WAIT = "wait"
    SLM_ONLY = "slm_only"
    FAIL = "fail"


_LOSS_POLICIES = {
    # The server's default.
    LossPolicy.WAIT: pb.LLM_LOSS_POLICY_UNSPECIFIED,
    LossPolicy.SLM_ONLY: pb.LLM_LOSS_POLICY_SLM_ONLY,
    LossPolicy.FAIL: pb.LLM_LOSS_POLICY_FAIL,
}
_ROUTING = ("threshold", "target_llm_usage", "target_avg_params_b")


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn.

    Args:
        temperature: Finite, >= 0; 0 is greedy.
        top_k: Draws from the k likeliest tokens; 0 draws from all.
        top_p: Draws from the likeliest tokens of this total probability, in (0, 1].
        seed: The same seed draws the same answer. None: each request gets one of its own, which its resumption keeps.

    Raises:
        ValueError: A request can't carry a value; the message names the field.
    """

    temperature: float
    top_k: int = 0
    top_p: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        _check_range("top_k", self.top_k, 0, _UINT32)
        _check_range("seed", self.seed, 0, _UINT64)

    def params(self) -> common_pb2.SamplingParams | None:
        """As a request carries it; None, which is greedy, for temperature 0."""
        if self.temperature == 0:
            return None
        seed = secrets.randbits(64) if self.seed is None else self.seed
        return common_pb2.SamplingParams(temperature=self.temperature, top_k=self.top_k, top_p=self.top_p, seed=seed)


@dataclass(frozen=True, slots=True)
class Options:
    """What a request asks for beside its prompt; None leaves the server's default.

    Args:
        max_new_tokens: Tokens to write at most.
        rule: What decides which drafts stand, as "entropy" or "random:rate=0.2,seed=7". None is the server's default.
        threshold: Score from which the LLM writes a token, for rules that have one; the router's is a divergence
            probability. 0 is LLM only; above 1 is SLM only for the router.
        target_llm_usage: Share of tokens that the LLM is to write, instead of a threshold.
        target_avg_params_b: Billions of parameters that a token is to take on average, instead of a threshold.
        stop: Strings before the first of which the answer ends.
        sampling: How tokens are drawn; None is greedy.
        llm_loss_policy: What to do while no LLM replica is left.
        run_ahead_depth: Tokens that the SLM may draft past the oldest undecided one.
        request_id: Names the request; the client chooses if empty.

    Raises:
        ValueError: More than one of threshold and targets is given, the rule isn't written like that, or a request
            can't carry a number; the message names the field.
    """

    max_new_tokens: int | None = None
    rule: str | None = None
    threshold: float | None = None
    target_llm_usage: float | None = None
    target_avg_params_b: float | None = None
    stop: Sequence[str] = ()
    sampling: Sampling | None = None
    llm_loss_policy: LossPolicy = LossPolicy.WAIT
    run_ahead_depth: int | None = None
    request_id: str = ""

    def __post_init__(self) -> None:
        given = [name for name in _ROUTING if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"give {' or '.join(given)}, not {'both' if len(given) == 2 else 'all'}")
        if self.rule is not None:
            RuleSpec.parse(self.rule)
        # What is below 1 is the server's to refuse.
        _check_range("max_new_tokens", self.max_new_tokens, -MAX_NEW_TOKENS, MAX_NEW_TOKENS)
        _check_range("run_ahead_depth", self.run_ahead_depth, 0, _UINT32)


def _check_range(name: str, value: int | None, least: int, most: int) -> None:
    if value is not None and not least <= value <= most:
        raise ValueError(f"{name}: {value} isn't from {least} to {most}")


DEFAULTS = Options()
"""Everything is left to the server."""

Message = pb.ChatMessage | Mapping[str, str]
"""A turn of a conversation, or its fields by their names: {"role": "user", "content": "…"}."""


def chat_request(
    messages: str | Sequence[Message],
    options: Options = DEFAULTS,
    *,
    tools: Sequence[Mapping[str, object]] = (),
    template_kwargs: Mapping[str, object] | None = None,
    continue_final_message: bool = False,
) -> pb.GenerateRequest:
    """A request with a conversation.

    Args:
        messages: Its turns, or one question of the user.
        options: What else is asked for.
        tools: Tools that the model may call, as OpenAI has them.
        template_kwargs: What else the chat template is given, such as {"enable_thinking": False}.
        continue_final_message: Goes on in the last message, which is the assistant's.
    """
    if isinstance(messages, str):
        messages = [pb.ChatMessage(role="user", content=messages)]
    chat = pb.ChatMessages(
        messages=[
            message if isinstance(message, pb.ChatMessage) else pb.ChatMessage(**message) for message in messages
        ],
        tools_json=json.dumps(list(tools)) if tools else "",
        template_kwargs_json=json.dumps(dict(template_kwargs)) if template_kwargs else "",
        continue_final_message=continue_final_message,
    )
    return _with(pb.GenerateRequest(chat=chat), options)


def text_request(text: str, options: Options = DEFAULTS) -> pb.GenerateRequest:
    """A request with plain text, without a chat template."""
    return _with(pb.GenerateRequest(text=text), options)


def tokens_request(token_ids: Sequence[int], options: Options = DEFAULTS) -> pb.GenerateRequest:
    """A request with a prompt of token ids, each in the pair's vocabulary."""
    return _with(pb.GenerateRequest(token_ids=pb.TokenIds(token_ids=token_ids)), options)


def _with(request: pb.GenerateRequest, options: Options) -> pb.GenerateRequest:
    for name in ("max_new_tokens", "run_ahead_depth", *_ROUTING):
        if (value := getattr(options, name)) is not None:
            setattr(request, name, value)
    if options.rule is not None:
        spec = RuleSpec.parse(options.rule)
        request.rule.CopyFrom(pb.RoutingRule(name=spec.name, parameters=spec.parameters))
    if options.sampling is not None and (params := options.sampling.params()) is not None:
        request.sampling.CopyFrom(params)
    request.stop.extend(options.stop)
    request.llm_loss_policy = _LOSS_POLICIES[options.llm_loss_policy]
    request.request_id = options.request_id
    return request
