"""The orchestrator's client: sends a request, gives its parts back as they stream, tells gRPC errors in one line.

Doesn't build requests and doesn't show anything.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import grpc
from trivium.v1 import orchestrator_pb2 as pb
from trivium.v1 import orchestrator_pb2_grpc

from services.cli.ask.options import DEFAULT_TIMEOUT_S
from services.cli.channel import local_channel
from services.cli.errors import CliError
from services.cli.figures import PairSize

_INFO_TIMEOUT_S = 5.0


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


class OrchestratorClient:
    """A connection to one orchestrator. A context manager.

    Args:
        address: "host:port".
        timeout_s: Seconds that an answer may take, from the request to its last message.
    """

    def __init__(self, address: str, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        self._address = address
        self._timeout_s = timeout_s
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
        with self._told_in_one_line(f"no answer within {_INFO_TIMEOUT_S:g} s"):
            return self._stub.GetServerInfo(pb.OrchestratorServiceGetServerInfoRequest(), timeout=_INFO_TIMEOUT_S)

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
        with self._told_in_one_line(f"the answer isn't complete after {self._timeout_s:g} s"):
            call = self._stub.Generate(request, timeout=self._timeout_s)
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

    def complete(self, request: pb.GenerateRequest) -> tuple[Answer, int]:
        """Waits for a whole answer.

        Returns:
            The answer, and in how many messages it came.

        Raises:
            CliError: As `generate`.
        """
        answer = Answer()
        num_messages = sum(1 for _ in self.generate(request, answer))
        return answer, num_messages

    @contextmanager
    def _told_in_one_line(self, too_late: str) -> Iterator[None]:
        """Raises a call's error as one line, which for a deadline that is over says `too_late`."""
        try:
            yield
        except grpc.RpcError as error:
            code = error.code()
            is_late = code is grpc.StatusCode.DEADLINE_EXCEEDED
            message = f"orchestrator {self._address}: {code.name}: {too_late if is_late else error.details()}"
            if is_late or code is grpc.StatusCode.UNAVAILABLE:
                message += " (`trivium doctor` tells what is down)"
            raise CliError(message) from error
