"""A router that is loaded anew whenever its checkpoint's files change. Doesn't know torch."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from router_service.checkpoint_files import CheckpointError
from router_service.serving.checkpoint_watch import CheckpointWatch
from router_service.serving.versions import RowScorer

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CheckpointSource:
    """Where a router comes from.

    Args:
        load: Loads it; called on a thread.
        files: Its files. Without any, it never changes by itself.
    """

    load: Callable[[], RowScorer]
    files: Sequence[Path] = ()


class FollowedCheckpoint:
    """A router, and what its files have come to since.

    Args:
        source: Where it comes from.

    Attributes:
        refused: Why what its files hold now isn't used; empty if it is.
        num_changes: Times that another one took its place.
    """

    def __init__(self, source: CheckpointSource) -> None:
        self.refused = ""
        self.num_changes = 0
        self._source = source
        self._watch: CheckpointWatch | None = None

    async def load(self) -> RowScorer:
        """Loads it for the first time, and warms it up.

        Raises:
            CheckpointError: It can't be loaded.
        """
        self._watch = CheckpointWatch(self._source.files)
        return await self._load()

    def has_changed(self) -> bool:
        """Whether its files have, and are at rest. True once for each change."""
        return bool(self._watch and self._watch.has_changed())

    async def change(self, take: Callable[[RowScorer], None]) -> bool:
        """Loads it anew, and hands it over.

        Args:
            take: Takes it, or raises CheckpointError.

        Returns:
            Whether it was taken. If not, the log and `refused` say why.
        """
        try:
            scorer = await self._load()
            take(scorer)
        except CheckpointError as error:
            self.refused = str(error)
            logger.error("another router isn't used: %s", error)
            return False
        self.refused = ""
        self.num_changes += 1
        logger.info("router %s is used now, weights %s", scorer.info.checkpoint, scorer.info.weights_sha256[:12])
        return True

    async def _load(self) -> RowScorer:
        scorer = await asyncio.to_thread(self._source.load)
        await asyncio.to_thread(scorer.warm_up, 1)
        return scorer
