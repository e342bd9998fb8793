"""`trivium chat`: a conversation in the terminal.

Owns the prompt, its commands and the history. A turn that failed or was stopped leaves no trace in the conversation.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

from trivium.v1 import orchestrator_pb2 as pb

from services.cli.ask.answer import find_address, stream_answer
from services.cli.ask.client import OrchestratorClient
from services.cli.console import note
from services.cli.errors import CliError
from services.cli.figures import PairSize, summary
from services.client import Options, chat_request

_PROMPT = "> "
_HISTORY_LEN = 1000


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
        except KeyboardInterrupt:
            note("stopped; this question is forgotten", style="yellow")
        except CliError as error:
            note(f"error: {error}", style="red")
        else:
            self.messages = [*turn, pb.ChatMessage(role="assistant", content=answer.text)]
            note(summary(answer.finish.usage, self._size, answer.seconds))


def _read_line() -> str | None:
    """The next line; None at the end of stdin. Ctrl-C empties the line."""
    while True:
        try:
            return input(_PROMPT if sys.stdin.isatty() else "")
        except KeyboardInterrupt:
            note("")
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
    with contextlib.suppress(FileNotFoundError):
        readline.read_history_file(path)
    try:
        yield
    finally:
        path.parent.mkdir(parents=True, exist_ok=True)
        readline.set_history_length(_HISTORY_LEN)
        readline.write_history_file(path)
