"""Asks a running orchestrator one question and collects the answer, as an evaluation needs it."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, field

import grpc
from trivium.v1 import orchestrator_pb2 as pb
from trivium.v1 import orchestrator_pb2_grpc

logger = logging.getLogger(__name__)

_PASSING = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED)
_NUM_ATTEMPTS = 8
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0


class LiveError(RuntimeError):
    """A question can't be asked. The message names it and what the orchestrator said."""


@dataclass(frozen=True)
class Asking:
    """How every question is asked; what is None is left to the orchestrator. At most one of the first two is given.

    Attributes:
        threshold: The LLM writes a token from this divergence probability on.
        target_llm_usage: LLM usage rate that the orchestrator finds a threshold for.
        max_new_tokens: Limit of a response.
    """

    threshold: float | None = None
    target_llm_usage: float | None = None
    max_new_tokens: int | None = None

    def request(self, prompt: str) -> pb.GenerateRequest:
        """A request with one user message, decoded greedily."""
        messages = pb.ChatMessages(messages=[pb.ChatMessage(role="user", content=prompt)])
        request = pb.GenerateRequest(chat=messages)
        if self.threshold is not None:
            request.threshold = self.threshold
        if self.target_llm_usage is not None:
            request.target_llm_usage = self.target_llm_usage
        if self.max_new_tokens is not None:
            request.max_new_tokens = self.max_new_tokens
        return request


@dataclass
class LiveAnswer:
    """A complete answer.

    Attributes:
        token_texts: The text that each token adds; what was held back to the end belongs to the last one.
        llm_positions: Positions of the LLM's tokens, ascending.
        finish: How it ended and what it took.
        latency_s: Seconds from the request to the last message.
    """

    token_texts: list[str] = field(default_factory=list)
    llm_positions: list[int] = field(default_factory=list)
    finish: pb.Finish = field(default_factory=pb.Finish)
    latency_s: float = 0.0

    @property
    def text(self) -> str:
        """All of it."""
        return "".join(self.token_texts)

    def add(self, response: pb.GenerateResponse) -> None:
        """Takes a message of the stream."""
        end = 0
        for length, source in zip(response.text_lengths, response.sources, strict=True):
            if source == pb.TOKEN_SOURCE_LLM:
                self.llm_positions.append(len(self.token_texts))
            start, end = end, end + length
            self.token_texts.append(response.text[start:end])
        if self.token_texts:
            self.token_texts[-1] += response.text[end:]
        if response.HasField("finish"):
            self.finish = response.finish


async def ask(
    stub: orchestrator_pb2_grpc.OrchestratorServiceAsyncStub, question_id: str, request: pb.GenerateRequest
) -> LiveAnswer:
    """Asks a question; asks again while the orchestrator is away or full.

    Args:
        stub: The orchestrator.
        question_id: Named in errors.
        request: The question.

    Raises:
        LiveError: The request is refused, or the orchestrator stays away.
    """
    pause_s = _FIRST_PAUSE_S
    for attempt in range(1, _NUM_ATTEMPTS + 1):
        try:
            return await _ask_once(stub, question_id, request)
        except grpc.aio.AioRpcError as error:
            if error.code() not in _PASSING or attempt == _NUM_ATTEMPTS:
                raise LiveError(f"question {question_id!r}: {error.code().name}: {error.details()}") from error
            logger.info("question %s: %s; asked again in %.1f s", question_id, error.code().name, pause_s)
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
    raise AssertionError("the last attempt returns or raises")


async def _ask_once(
    stub: orchestrator_pb2_grpc.OrchestratorServiceAsyncStub, question_id: str, request: pb.GenerateRequest
) -> LiveAnswer:
    answer = LiveAnswer()
    started = time.perf_counter()
    async for response in stub.Generate(request):
        answer.add(response)
    answer.latency_s = time.perf_counter() - started
    num_tokens = answer.finish.usage.num_completion_tokens
    if not answer.finish.reason or len(answer.token_texts) != num_tokens:
        raise LiveError(f"question {question_id!r}: {len(answer.token_texts)} of {num_tokens} tokens arrived")
    return answer
