"""`trivium chat`: a conversation in the terminal.

Owns the prompt, its commands and the history. A turn that failed or was stopped leaves no trace in the conversation.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

from trivium.v1 import orchestrator_pb2 as pb

from services.cli.ask.answer import find_address, stream_answer, sum_up
from services.cli.ask.client import OrchestratorClient, TooLong
from services.cli.console import note
from services.cli.ending import is_text
from services.cli.errors import CliError
from services.cli.figures import PairSize
from services.client import Options, chat_request

_PROMPT = "> "
_HISTORY_LEN = 1000
_FULL = "the conversation has filled the context: /reset forgets it, a shorter question may still fit"


def run_chat(asked: Options, *, address: str | None, state_dir: Path, system: str | None, timeout_s: float) -> None:
    """Holds a conversation until /quit or the end of stdin.

    Args:
        asked: What each turn asks for beside the conversation.
        address: The orchestrator's; found by itself if None.
        state_dir: Where a running pair is looked for, and where the history of prompts is kept.
        system: A system message to start with; None for none.
        timeout_s: Seconds that each answer may take.

    Raises:
        CliError: The orchestrator doesn't answer at the start. Later errors are shown, and the conversation goes on.
        KeyboardInterrupt: Ctrl-C came twice at the prompt, or once where there is none.
    """
    where = find_address(address, state_dir)
    history = state_dir / "chat_history"
    with OrchestratorClient(where, timeout_s=timeout_s) as client, _line_history(history):
        conversation = Conversation(client, asked, system, client.pair_size())
        note("/reset forgets the conversation, /quit ends it, Ctrl-C stops an answer")
        while (line := _read_line()) is not None:
            match line.strip():
                case "":
                    continue
                case "/quit":
                    return
                case garbled if not is_text(garbled):
                    note("this line isn't UTF-8, so it isn't asked", style="yellow")
                case "/reset":
                    conversation.reset()
                case command if command.startswith("/"):
                    note(f"{command} is unknown: /reset, /quit", style="yellow")
                case question:
                    conversation.ask(question)


class Conversation:
    """What was said so far, and the way to the next answer.

    Args:
        client: Answers.
        asked: What each turn asks for beside the conversation.
        system: A system message to start with; None for none.
        size: The pair's, for the summary.
    """

    def __init__(self, client: OrchestratorClient, asked: Options, system: str | None, size: PairSize) -> None:
        self._client = client
        self._asked = asked
        self._size = size
        self._opening = [pb.ChatMessage(role="system", content=system)] if system else []
        self.messages = list(self._opening)

    def reset(self) -> None:
        """Forgets all turns."""
        self.messages = list(self._opening)
        note("the conversation is forgotten")

    def ask(self, question: str) -> None:
        """Shows the answer to the next question, or why there is none."""
        turn = [*self.messages, pb.ChatMessage(role="user", content=question)]
        try:
            answer = stream_answer(self._client, chat_request(turn, self._asked))
            sum_up(answer, self._size)
        except KeyboardInterrupt:
            if not sys.stdin.isatty():
                raise
            note("stopped; this question is forgotten", style="yellow")
        except TooLong as error:
            note(f"error: {error}", style="red")
            note(_FULL if len(self.messages) > len(self._opening) else "ask something shorter", style="yellow")
        except CliError as error:
            note(f"error: {error}", style="red")
        else:
            self.messages = [*turn, pb.ChatMessage(role="assistant", content=answer.text)]


def _read_line() -> str | None:
    """The next line; None at the end of stdin. Ctrl-C empties a terminal's line; once more, and it ends the chat."""
    if not sys.stdin.isatty():
        return sys.stdin.readline() or None
    was_stopped = False
    while True:
        try:
            return input(_PROMPT)
        except KeyboardInterrupt:
            if was_stopped:
                raise
            was_stopped = True
            note("\nCtrl-C again, or /quit, ends the conversation")
        except EOFError:
            return None


@contextlib.contextmanager
def _line_history(path: Path) -> Iterator[None]:
    """Lets a terminal's line be edited and earlier ones be found again, also in the next conversation."""
    if not sys.stdin.isatty():
        yield
        return
    try:
        import readline
    except ModuleNotFoundError:
        # Python can be built without it; typing works all the same.
        yield
        return
    with contextlib.suppress(OSError):
        readline.read_history_file(path)
    try:
        yield
    finally:
        readline.set_history_length(_HISTORY_LEN)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            readline.write_history_file(path)
        except OSError as error:
            note(f"{path}: the history of prompts isn't kept: {error.strerror}", style="yellow")
