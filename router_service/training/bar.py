"""A progress bar for a router's training, on whatever console its caller has."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self

from rich.console import Console

from router_service.training.recipe import RouterRecipe
from router_service.training.routing_data import Batch
from router_service.training.state import EpochRecord
from services.common.progress import progress_bar


class TrainingBar:
    """A bar for the epoch that runs, with the last validation loss beside it. A context manager.

    Args:
        recipe: What the router is trained by.
        console: Where it is shown.
    """

    def __init__(self, recipe: RouterRecipe, console: Console) -> None:
        self._max_epochs = recipe.training.max_epochs
        self._told = ""
        self._progress = progress_bar("steps  {task.fields[told]}", console=console)
        self._task = self._progress.add_task("reading", total=None, told="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def steps(self, batches: Iterable[Batch], num_steps: int, epoch: int) -> Iterable[Batch]:
        """Moves with the steps of an epoch, which it passes through."""
        description = f"epoch {epoch} of at most {self._max_epochs}"
        self._progress.reset(self._task, total=num_steps, description=description, told=self._told)
        for batch in batches:
            yield batch
            self._progress.advance(self._task)

    def end_epoch(self, record: EpochRecord) -> None:
        """Shows what an epoch came to."""
        self._told = f"validation loss {record.validation_loss:.4f}, AUC {record.validation_auc:.4f}"
        self._progress.update(self._task, told=self._told)
