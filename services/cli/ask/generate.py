"""`trivium generate`: one question, one answer.

Owns the two forms of the answer: streamed text with a summary on stderr, or one JSON object.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from google.protobuf.json_format import MessageToDict
from trivium.v1 import orchestrator_pb2 as pb

from services.cli.ask.answer import find_address, stream_answer, sum_up
from services.cli.ask.client import OrchestratorClient
from services.cli.console import out
from services.cli.ending import is_text
from services.cli.errors import CliError
from services.cli.pair.local_pair import LocalOptions
from services.cli.pair.state import running_pair
from services.cli.pair.up import chosen_pair, started_pair
from services.client import Completion, Options, chat_request, text_request


def run_generate(
    prompt: str,
    asked: Options,
    *,
    address: str | None,
    state_dir: Path,
    raw: bool,
    as_json: bool,
    start: bool,
    timeout_s: float,
) -> None:
    """Answers one question.

    Args:
        prompt: The question.
        asked: What is asked for beside it.
        address: The orchestrator's; found by itself if None.
        state_dir: Where a running pair is looked for.
        raw: Leave out the chat template.
        as_json: Print one JSON object when the answer is complete, nothing before.
        start: Run the reference pair for this answer if none runs.
        timeout_s: Seconds that the answer may take.

    Raises:
        CliError: The request failed.
    """
    request = text_request(prompt, asked) if raw else chat_request(prompt, asked)
    with (
        _orchestrator(address, state_dir, start) as target,
        OrchestratorClient(target, timeout_s=timeout_s) as client,
    ):
        size = client.pair_size()
        if as_json:
            answer = client.complete(request)
            out.print_json(json.dumps(_as_dict(answer)), indent=2)
        else:
            answer = stream_answer(client, request)
            sum_up(answer, size)


def prompt_of(argument: str) -> str:
    """The prompt: as given, or all of stdin for "-".

    Raises:
        CliError: What stdin gives isn't UTF-8.
    """
    if argument != "-":
        return argument
    text = sys.stdin.read()
    for number, line in enumerate(text.splitlines(), start=1):
        if not is_text(line):
            raise CliError(f"stdin isn't UTF-8: line {number}")
    return text


@contextmanager
def _orchestrator(address: str | None, state_dir: Path, start: bool) -> Iterator[str]:
    if start and address is None and running_pair(state_dir) is None:
        options = LocalOptions(pair=chosen_pair("reference", None, None), state_dir=state_dir)
        with started_pair(options) as pair:
            yield pair.address
    else:
        yield find_address(address, state_dir)


def _as_dict(answer: Completion) -> dict[str, object]:
    usage = MessageToDict(
        answer.finish.usage, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return {
        "text": answer.text,
        "finish_reason": pb.FinishReason.Name(answer.finish.reason).removeprefix("FINISH_REASON_").lower(),
        "stop": answer.finish.stop,
        "tokens": [
            {
                "token_id": token.token_id,
                "source": pb.TokenSource.Name(token.source).removeprefix("TOKEN_SOURCE_").lower(),
                "divergence_probability": token.divergence_probability,
            }
            for token in answer.tokens
        ],
        "usage": usage,
        "seconds": round(answer.seconds, 3),
    }
