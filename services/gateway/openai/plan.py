"""What a request comes to: the completions that are asked for, and how they are given back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from trivium.v1 import orchestrator_pb2 as pb

from services.gateway.openai.common import CommonRequest


@dataclass(frozen=True, slots=True)
class Limits:
    """What a gateway allows.

    Args:
        max_n: Answers to one prompt.
        max_prompts: Answers of one request, over all of its prompts.
        default_temperature: Of requests that name none.
    """

    max_n: int
    max_prompts: int
    default_temperature: float


@dataclass(frozen=True, slots=True)
class Plan:
    """A request that can be run.

    Args:
        request: The fields that both kinds have.
        request_id: Names the request.
        requests: What orchestrators are asked, one for each choice, those of a prompt one after the other.
        prompt_params: The field that each choice's prompt came from.
        is_chat: Whether it came to /v1/chat/completions.
        shows_tools: Whether the model may call tools.
        separates_reasoning: Whether reasoning is to be split off where the pair's template has it.
        echoes: What each choice's text begins with.
    """

    request: CommonRequest
    request_id: str
    requests: Sequence[pb.GenerateRequest]
    prompt_params: Sequence[str]
    is_chat: bool
    shows_tools: bool = False
    separates_reasoning: bool = False
    echoes: Sequence[str] = field(default=())

    @property
    def stream(self) -> bool:
        """Whether the answer is streamed."""
        return self.request.stream

    @property
    def includes_usage(self) -> bool:
        """Whether a stream tells at its end what it took."""
        return self.request.stream_options is not None and self.request.stream_options.include_usage

    @property
    def tells_usage(self) -> bool:
        """Whether each chunk does."""
        return self.request.stream_options is not None and self.request.stream_options.continuous_usage_stats
