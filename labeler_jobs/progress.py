"""How labelling looks on a terminal: one bar a stage; anywhere else, one line a stage."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import ProgressColumn, Task, TaskID
from rich.text import Text

from services.common.progress import progress_bar


class StageBars:
    """One bar a stage, of which the last one moves. A context manager.

    Args:
        console: Where they are shown.
        columns: What stands behind a stage's name, its bar and its number of shards.
    """

    def __init__(self, console: Console, *columns: str | ProgressColumn) -> None:
        self._progress = progress_bar(*columns, console=console)
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end_bar()
        self._progress.stop()

    def _start_bar(self, stage: str, num_shards: int, num_done: int, **fields: Any) -> None:
        self._end_bar()
        self._task = self._progress.add_task(stage, total=num_shards, completed=num_done, **fields)

    def _end_bar(self) -> None:
        if self._task is not None:
            self._progress.stop_task(self._task)


class LabelProgress(StageBars):
    """A `pipeline.Watcher` on a console.

    Args:
        console: Where it is shown.
    """

    def __init__(self, console: Console) -> None:
        super().__init__(console, "shards", "{task.fields[items]:,} {task.fields[counts]}", _Rate())
        self._num_items = 0

    def start_stage(self, name: str, counts: str, num_shards: int, num_done: int) -> None:
        """Starts a bar; shards that are there already count as done."""
        self._num_items = 0
        self._start_bar(name, num_shards, num_done, items=0, counts=counts)

    def add_items(self, num_items: int) -> None:
        """Counts items."""
        if self._task is not None:
            self._num_items += num_items
            self._progress.update(self._task, items=self._num_items)

    def end_shard(self) -> None:
        """Moves the bar."""
        if self._task is not None:
            self._progress.advance(self._task)


class _Rate(ProgressColumn):
    """Items a second, of this run alone."""

    def render(self, task: Task) -> Text:
        elapsed_s = task.elapsed
        return Text(f"{task.fields['items'] / elapsed_s:,.0f}/s" if elapsed_s else "")
