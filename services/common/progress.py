"""Progress bars: one shape for everything that takes a while.

Owns how a bar looks: what is done, a bar, how many of how many, what its caller adds, and the time taken and left. On
anything but a terminal it is one line, at the end.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

_Item = TypeVar("_Item")


def progress_bar(*columns: str | ProgressColumn, console: Console | None = None) -> Progress:
    """Makes a bar; whoever shows it adds its tasks.

    Args:
        columns: What stands behind the count: texts, which may name a task's fields, or columns.
        console: Where it is shown; stderr unless given.
    """
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        *columns,
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console or Console(stderr=True),
    )


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
