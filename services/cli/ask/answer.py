"""Shows an answer while it streams.

Owns which part has which colour, and the way to an orchestrator from the options of a command.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter
from pathlib import Path

from trivium.v1 import orchestrator_pb2 as pb

from services.cli.ask.client import OrchestratorClient
from services.cli.console import LLM_STYLE, SLM_STYLE, end_answer, note, write_answer
from services.cli.figures import PairSize, cut_off, summary
from services.cli.options import DEFAULT_ADDRESS
from services.cli.pair.state import running_pair
from services.client import Completion


def find_address(address: str | None, state_dir: Path) -> str:
    """Where the orchestrator is: as given, else of the pair that runs here, else the default."""
    if address is not None:
        return address
    state = running_pair(state_dir)
    return state.addresses.get("orchestrator", DEFAULT_ADDRESS) if state else DEFAULT_ADDRESS


def parts_by_writer(response: pb.GenerateResponse) -> Iterator[tuple[str, str]]:
    """Cuts the text of a message into parts of one writer each.

    Yields:
        Text and its colour, in order.
    """
    end = 0
    for source, tokens in groupby(zip(response.sources, response.text_lengths, strict=True), key=itemgetter(0)):
        start, end = end, end + sum(length for _, length in tokens)
        yield response.text[start:end], LLM_STYLE if source == pb.TOKEN_SOURCE_LLM else SLM_STYLE
    yield response.text[end:], SLM_STYLE


def sum_up(answer: Completion, size: PairSize) -> None:
    """Tells on stderr what an answer took, and that it is cut off where it is."""
    if told := cut_off(answer.finish, size):
        note(told, style="yellow")
    note(summary(answer.finish.usage, size, answer.seconds))


def stream_answer(client: OrchestratorClient, request: pb.GenerateRequest) -> Completion:
    """Sends a request and shows the answer as it streams.

    Raises:
        CliError: The request failed; what had arrived stays on the screen.
    """
    answer = Completion()
    try:
        for response in client.generate(request, answer):
            for text, style in parts_by_writer(response):
                write_answer(text, style)
    finally:
        if answer.text:
            end_answer()
    return answer
