"""The way from a command to an orchestrator: the project's client, whose failures become one line."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager

import grpc
from trivium.v1 import orchestrator_pb2 as pb

from services.cli.ask.options import DEFAULT_TIMEOUT_S
from services.cli.channel import client_options
from services.cli.console import note
from services.cli.errors import CliError
from services.cli.figures import PairSize
from services.client import CallFailed, Client, Completion


class TooLong(CliError):
    """The prompt leaves no room for an answer."""


class OrchestratorClient:
    """A connection to an orchestrator. A context manager.

    Args:
        address: "host:port".
        timeout_s: Seconds that an answer may take, from the request to its last message.
    """

    def __init__(self, address: str, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        self._address = address
        self._client = Client(address, timeout_s=timeout_s, **client_options())

    def __enter__(self) -> OrchestratorClient:
        return self

    def __exit__(self, *exception: object) -> None:
        self._client.close()

    def server_info(self) -> pb.OrchestratorServiceGetServerInfoResponse:
        """Asks what is served.

        Raises:
            CliError: The orchestrator doesn't answer.
        """
        with self._told_in_one_line():
            return self._client.server_info()

    def pair_size(self) -> PairSize:
        """Asks for the number of parameters of both models, and for the context length.

        Raises:
            CliError: The orchestrator doesn't answer.
        """
        info = self.server_info()
        return PairSize(info.slm.num_parameters, info.llm.num_parameters, info.context_length)

    def generate(
        self, request: pb.GenerateRequest, completion: Completion
    ) -> Generator[pb.GenerateResponse, None, None]:
        """Streams an answer. Where the orchestrator is away for a while, it says so on stderr, and goes on.

        Args:
            request: What to generate.
            completion: Filled while the answer streams, complete when the iterator ends.

        Yields:
            The messages as they arrive. Leaving the iterator early cancels the request.

        Raises:
            TooLong: The prompt has more tokens than the context.
            CliError: The request failed.
        """
        with (
            self._told_in_one_line(),
            closing(self._client.generate(request, on_retry=_tell_of_pause)) as responses,
        ):
            for response in responses:
                completion.add(response)
                yield response

    def complete(self, request: pb.GenerateRequest) -> Completion:
        """Waits for a whole answer.

        Raises:
            CliError: As `generate`.
        """
        completion = Completion()
        for _ in self.generate(request, completion):
            pass
        return completion

    @contextmanager
    def _told_in_one_line(self) -> Iterator[None]:
        try:
            yield
        except CallFailed as failure:
            message = f"orchestrator {self._address}: {failure}"
            if failure.code in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE):
                message += " (`trivium doctor` tells what is down)"
            kind = TooLong if failure.code is grpc.StatusCode.OUT_OF_RANGE else CliError
            raise kind(message) from failure


def check_answers(address: str) -> None:
    """Asks an orchestrator whether it is there, before what takes long.

    Raises:
        CliError: It doesn't answer.
    """
    with OrchestratorClient(address) as client:
        client.server_info()


def _tell_of_pause(failure: CallFailed) -> None:
    note(f"{failure}; reconnecting", style="yellow")
