"""Progress bars: one shape for everything that takes a while.

Owns how a bar looks: what is done, a bar, how many of how many, what its caller adds, and the time taken and left;
on a narrow screen, without bar and times. On anything but a terminal it is a line from time to time, and one at the
end.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sized
from datetime import timedelta
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

_Item = TypeVar("_Item")

LINE_EVERY_S = 30.0
"""Seconds between two lines where there is no terminal."""
_NARROW = 70
"""Columns below which a bar would push out what it counts."""


def progress_bar(*columns: str | ProgressColumn, console: Console | None = None) -> Progress:
    """Makes a bar; whoever shows it adds its tasks.

    Args:
        columns: What stands behind the count: texts, which may name a task's fields, or columns.
        console: Where it is shown; stderr unless given.
    """
    console = console or Console(stderr=True)
    what, count = TextColumn("{task.description}"), MofNCompleteColumn()
    if console.width < _NARROW:
        return _Progress(what, count, *columns, console=console)
    return _Progress(what, BarColumn(), count, *columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console)


class _Progress(Progress):
    """Says how the last task goes on where no bar can move."""

    _ended: threading.Event | None = None

    def start(self) -> None:
        """Shows the bar, or begins to write lines."""
        super().start()
        if self.console.is_terminal or self._ended is not None:
            return
        self._ended = threading.Event()
        threading.Thread(target=self._tell, args=(self._ended,), name="progress", daemon=True).start()

    def stop(self) -> None:
        """Shows how far it came."""
        if self._ended is not None:
            self._ended.set()
            self._ended = None
        super().stop()

    def _tell(self, ended: threading.Event) -> None:
        while not ended.wait(LINE_EVERY_S):
            with self._lock:
                line = self._line(self.tasks[-1]) if self.tasks else None
            if line is not None and not ended.is_set():
                self.console.print(line, soft_wrap=True)

    def _line(self, task: Task) -> Text:
        silent = (BarColumn, TimeElapsedColumn, TimeRemainingColumn)
        columns = [column for column in self.columns if isinstance(column, str) or not isinstance(column, silent)]
        parts = [
            column.format(task=task) if isinstance(column, str) else str(column.render(task)) for column in columns
        ]
        times = [(task.elapsed, "so far"), (task.time_remaining, "left")]
        parts += [f"{timedelta(seconds=round(seconds))} {what}" for seconds, what in times if seconds is not None]
        return Text(" ".join(part for part in parts if part.strip()))


def track(items: Iterable[_Item], what: str, num_items: int | None = None) -> Iterator[_Item]:
    """Passes items through, with a bar on stderr that counts them.

    Args:
        items: What is gone through.
        what: Is done with each.
        num_items: How many there are, where they don't tell.
    """
    total = len(items) if num_items is None and isinstance(items, Sized) else num_items
    with progress_bar() as bar:
        yield from bar.track(items, total=total, description=what)
