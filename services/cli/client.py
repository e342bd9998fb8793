"""The orchestrator's client: sends a request, gives its parts back as they stream, tells gRPC errors in one line.

Owns building requests from what was typed. Doesn't show anything.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import grpc
from trivium.v1 import common_pb2, orchestrator_pb2_grpc
from trivium.v1 import orchestrator_pb2 as pb

from services.cli.errors import CliError
from services.cli.figures import PairSize
from services.cli.options import LossPolicy

_LOSS_POLICIES = {
    # The server's default; requests stay as short as they were.
    LossPolicy.WAIT: pb.LLM_LOSS_POLICY_UNSPECIFIED,
    LossPolicy.SLM_ONLY: pb.LLM_LOSS_POLICY_SLM_ONLY,
    LossPolicy.FAIL: pb.LLM_LOSS_POLICY_FAIL,
}


def local_channel(address: str) -> grpc.Channel:
    """Opens a channel that never goes through a proxy."""
    return grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)])


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


@dataclass(slots=True)
class Answer:
    """A finished answer.

    Attributes:
        text: All of it.
        tokens: Id, source and divergence probability of each token.
        finish: How it ended and what it took.
        seconds: From the request to the last message.
    """

    text: str = ""
    tokens: list[tuple[int, pb.TokenSource.ValueType, float]] = field(default_factory=list)
    finish: pb.Finish = field(default_factory=pb.Finish)
    seconds: float = 0.0


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


class OrchestratorClient:
    """A connection to one orchestrator. Close it, or use it as a context manager."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._channel = local_channel(address)
        self._stub = orchestrator_pb2_grpc.OrchestratorServiceStub(self._channel)

    def __enter__(self) -> OrchestratorClient:
        return self

    def __exit__(self, *exception: object) -> None:
        self._channel.close()

    def server_info(self) -> pb.OrchestratorServiceGetServerInfoResponse:
        """Asks what is served.

        Raises:
            CliError: The orchestrator doesn't answer.
        """
        with self._told_in_one_line():
            return self._stub.GetServerInfo(pb.OrchestratorServiceGetServerInfoRequest(), timeout=5)

    def pair_size(self) -> PairSize:
        """Asks for the number of parameters of both models.

        Raises:
            CliError: The orchestrator doesn't answer.
        """
        info = self.server_info()
        return PairSize(slm=info.slm.num_parameters, llm=info.llm.num_parameters)

    def generate(self, request: pb.GenerateRequest, answer: Answer) -> Iterator[pb.GenerateResponse]:
        """Streams an answer.

        Args:
            request: What to generate.
            answer: Filled while the answer streams, complete when the iterator ends.

        Yields:
            The messages as they arrive. Leaving the iterator early cancels the request.

        Raises:
            CliError: The request failed, the stream ended without its last message, or tokens are missing.
        """
        started = time.perf_counter()
        with self._told_in_one_line():
            call = self._stub.Generate(request)
            try:
                for response in call:
                    answer.text += response.text
                    answer.tokens += zip(
                        response.token_ids, response.sources, response.divergence_probabilities, strict=True
                    )
                    answer.seconds = time.perf_counter() - started
                    if response.HasField("finish"):
                        answer.finish.CopyFrom(response.finish)
                    yield response
            finally:
                call.cancel()
        if not answer.finish.reason:
            raise CliError(f"orchestrator {self._address}: the answer ended without its last message")
        num_written = answer.finish.usage.num_completion_tokens
        if len(answer.tokens) != num_written:
            arrived = f"{len(answer.tokens)} of {num_written} tokens arrived"
            raise CliError(f"orchestrator {self._address}: {arrived}; the answer has gaps")

    @contextmanager
    def _told_in_one_line(self) -> Iterator[None]:
        try:
            yield
        except grpc.RpcError as error:
            message = f"orchestrator {self._address}: {error.code().name}: {error.details()}"
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                message += " (`trivium doctor` tells what is down)"
            raise CliError(message) from error
