"""Joins what waits to be scored, from all streams, into one forward.

Owns the queue of drafted tokens and the worker thread. Doesn't know gRPC.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Score = Callable[[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]], NDArray[np.float32]]

_INLINE_S = 0.001
"""Handing a forward to a thread and back costs about a tenth of this, and much more on a busy machine."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Features of drafted tokens that belong together.

    Args:
        token_ids: [rows].
        hidden_states: [rows, hidden].
        top_logits: [rows, num_top_logits].
        score: What they are scored by; rows of one forward have it in common.
        deliver: Called with the [rows] probabilities.
        is_wanted: Asked before the forward; rows that nobody wants any more are dropped.
    """

    token_ids: NDArray[np.int64]
    hidden_states: NDArray[np.float32]
    top_logits: NDArray[np.float32]
    score: Score
    deliver: Callable[[NDArray[np.float32]], None]
    is_wanted: Callable[[], bool]


class Batcher:
    """Runs one forward at a time over as many waiting rows as fit.

    On a thread of its own, unless the last one took less than a millisecond.

    Args:
        max_batch_rows: Most rows in one forward. Larger `Rows` take several, one after another.
        max_waiting_rows: Rows that may wait before `submit` does.
    """

    def __init__(self, *, max_batch_rows: int, max_waiting_rows: int) -> None:
        self._max_batch_rows = max_batch_rows
        self._max_waiting_rows = max_waiting_rows
        self._waiting: deque[Rows] = deque()
        self._has_work = asyncio.Event()
        self._has_room = asyncio.Event()
        self._has_room.set()
        # The first forward may be slow; it teaches how slow.
        self._forward_s = _INLINE_S
        self.num_rows_waiting = 0
        self.num_rows_in_batch = 0
        self.num_steps = 0
        self.num_rows = 0

    async def submit(self, rows: Rows) -> None:
        """Queues rows; waits first where too many wait already."""
        while not self._has_room.is_set():
            await self._has_room.wait()
        self._waiting.append(rows)
        self._count_waiting(len(rows.token_ids))
        self._has_work.set()

    async def run(self) -> None:
        """Scores what waits, until cancelled."""
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="router-forward") as worker:
            while True:
                await self._has_work.wait()
                if not (batch := self._take()):
                    continue
                if self._forward_s < _INLINE_S:
                    self._deliver(batch, self._forward(batch))
                    # Lets the scores go out and what came in meanwhile join the next forward.
                    await asyncio.sleep(0)
                else:
                    self._deliver(batch, await loop.run_in_executor(worker, self._forward, batch))

    def _take(self) -> list[Rows]:
        batch: list[Rows] = []
        num_rows = 0
        while self._waiting:
            following = self._waiting[0]
            if batch and (
                num_rows + len(following.token_ids) > self._max_batch_rows or following.score != batch[0].score
            ):
                break
            rows = self._waiting.popleft()
            self._count_waiting(-len(rows.token_ids))
            if rows.is_wanted():
                batch.append(rows)
                num_rows += len(rows.token_ids)
        if not self._waiting:
            self._has_work.clear()
        return batch

    def _forward(self, batch: list[Rows]) -> NDArray[np.float32]:
        start = time.perf_counter()
        self.num_rows_in_batch = sum(len(rows.token_ids) for rows in batch)
        # Concatenating also copies, which torch wants: what was received is read-only.
        columns = (
            np.concatenate([rows.token_ids for rows in batch]),
            np.concatenate([rows.hidden_states for rows in batch]),
            np.concatenate([rows.top_logits for rows in batch]),
        )
        parts = range(0, self.num_rows_in_batch, self._max_batch_rows)
        probabilities = np.concatenate(
            [batch[0].score(*(column[part : part + self._max_batch_rows] for column in columns)) for part in parts]
        )
        self._forward_s = time.perf_counter() - start
        self.num_rows_in_batch = 0
        return probabilities

    def _deliver(self, batch: list[Rows], probabilities: NDArray[np.float32]) -> None:
        self.num_steps += math.ceil(len(probabilities) / self._max_batch_rows)
        self.num_rows += len(probabilities)
        start = 0
        for rows in batch:
            end = start + len(rows.token_ids)
            rows.deliver(probabilities[start:end])
            start = end

    def _count_waiting(self, num_rows: int) -> None:
        self.num_rows_waiting += num_rows
        if self.num_rows_waiting < self._max_waiting_rows:
            self._has_room.set()
        else:
            self._has_room.clear()
