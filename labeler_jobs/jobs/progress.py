"""How Jobs look on a terminal: one bar a stage, and what there is to know above it."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text


class JobProgress:
    """A `submission.View` on a console. A context manager.

    Args:
        console: Where it is shown.
    """

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[pods]}"),
            TimeElapsedColumn(),
            console=console,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> JobProgress:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()
        self._progress.stop()

    def start(self, stage: str, num_shards: int, num_done: int) -> None:
        """Starts a bar; shards that are there already count as done."""
        self._end()
        self._task = self._progress.add_task(stage, total=num_shards, completed=num_done, pods="")

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

    def _end(self) -> None:
        if self._task is not None:
            self._progress.update(self._task, pods="")
            self._progress.stop_task(self._task)


def _harmless(text: str) -> str:
    """Text of elsewhere without the characters that would move a terminal's cursor."""
    return "".join(char if char.isprintable() or char in "\n\t" else "\N{REPLACEMENT CHARACTER}" for char in text)
