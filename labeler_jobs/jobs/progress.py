"""How Jobs look on a terminal: one bar a stage, and what there is to know above it."""

from __future__ import annotations

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from labeler_jobs.progress import StageBars


class JobProgress(StageBars):
    """A `submission.View` on a console.

    Args:
        console: Where it is shown.
    """

    def __init__(self, console: Console) -> None:
        super().__init__(console, "{task.fields[pods]}")

    def start(self, stage: str, num_shards: int, num_done: int) -> None:
        """Starts a bar; shards that are there already count as done."""
        self._start_bar(stage, num_shards, num_done, pods="")

    def update(self, num_done: int, num_running: int, num_failed: int) -> None:
        """Moves the bar."""
        pods = f"{num_running} running" + (f", {num_failed} failed" if num_failed else "")
        if self._task is not None:
            self._progress.update(self._task, completed=num_done, pods=pods)

    def say(self, message: str) -> None:
        """Writes a line above the bar."""
        self._progress.console.print(Text(_harmless(message), style="dim"), soft_wrap=True)

    def show_log(self, title: str, log: str) -> None:
        """Writes a log above the bar."""
        self._progress.console.print(Text(title, style="bold"), soft_wrap=True)
        self._progress.console.print(Padding(Text(_harmless(log.rstrip())), (0, 0, 0, 2)), soft_wrap=True)

    def _end_bar(self) -> None:
        if self._task is not None:
            self._progress.update(self._task, pods="")
        super()._end_bar()


def _harmless(text: str) -> str:
    """Text of elsewhere without the characters that would move a terminal's cursor."""
    return "".join(char if char.isprintable() or char in "\n\t" else "\N{REPLACEMENT CHARACTER}" for char in text)
