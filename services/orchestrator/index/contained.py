"""Keeps what goes wrong in background work from ending what runs beside it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


async def contained(work: Coroutine[Any, Any, None]) -> BaseException | None:
    """Runs `work` to its end, in a task of its own that ends with the caller's.

    Returns:
        What it raised, for the caller to log; None if it ended well.
    """
    task = asyncio.create_task(work)
    try:
        await asyncio.wait({task})
    finally:
        # Only a caller that is cancelled leaves it unfinished.
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    return task.exception()
