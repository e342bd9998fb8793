"""What this orchestrator tells the prefix index, and asks of it, about the sequences that it runs.

Owns when the index is written: at a steady pace while sequences run, and when they end; never for a token. What the
driver calls notes something down and returns; one loop writes it. The index itself, and that none of this can hurt a
stream, is `prefix_index`'s.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from contextlib import suppress

from services.common.errors import InvalidRequest
from services.orchestrator.index.contained import contained
from services.orchestrator.index.followed import FollowedSequence, HeldPrefix, IndexedSequence
from services.orchestrator.index.prefix_index import Holding, PrefixIndex
from services.orchestrator.index.replies import ModelKind
from services.orchestrator.index.token_log import LogBatch
from services.orchestrator.requests.task import GenerationTask
from services.orchestrator.routing.actions import AcceptedToken

# For a client that lost its connection at the very end, and comes back for the rest.
_FINISHED_LOG_TTL_S = 30
# What the loop can't keep up with is forgotten, oldest first.
_MAX_NOTES = 4096
# That share a write.
_MAX_SEQUENCES = 64
# After a fault that nobody thought of.
_PAUSE_S = 5.0

_log = logging.getLogger(__name__)


class IndexWriter:
    """Keeps the index up to date.

    Args:
        index: The shared index.
        interval_s: Seconds between two writes while sequences run.
    """

    def __init__(self, index: PrefixIndex, interval_s: float) -> None:
        self._index = index
        self._interval_s = interval_s
        self._followed: dict[int, FollowedSequence] = {}
        self._left: deque[HeldPrefix] = deque(maxlen=_MAX_NOTES)
        self._lost: deque[tuple[ModelKind, str]] = deque(maxlen=_MAX_NOTES)
        self._finished: deque[FollowedSequence] = deque(maxlen=_MAX_NOTES)
        self._noted = asyncio.Event()

    async def run(self) -> None:
        """Writes what there is to tell, until cancelled."""
        loop = asyncio.get_running_loop()
        next_time = loop.time() + self._interval_s
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(next_time):
                    await self._noted.wait()
            self._noted.clear()
            due = loop.time() >= next_time
            if due:
                next_time = loop.time() + self._interval_s
            error = await contained(self._write(running=due))
            if error is not None:
                _log.error("prefix index: something wasn't written, going on", exc_info=error)
                await asyncio.sleep(_PAUSE_S)

    async def resumed_tokens(self, task: GenerationTask) -> Sequence[AcceptedToken]:
        """The tokens that an earlier stream of a request has accepted; decoding gives the same ones without.

        Raises:
            InvalidRequest: The request id belongs to another request.
        """
        if task.resume_from is None or not self._index.available:
            return ()
        log = await self._index.read_log(task.request_id, task.fingerprint(), task.max_new_tokens)
        if log is None:
            return ()
        if not log.belongs:
            raise InvalidRequest(
                f"request_id: {task.request_id!r} belongs to a request with another prompt, options or pair"
            )
        return log.tokens

    def opened(self, sequence: IndexedSequence) -> None:
        """A sequence runs. What it has accepted, it resumes: that is in the log already."""
        self._followed[sequence.sequence_id] = FollowedSequence(sequence, self._index)

    def leaving(self, sequence: IndexedSequence) -> None:
        """A sequence is about to leave its replicas, whose prefix caches go on holding it."""
        followed = self._followed.get(sequence.sequence_id)
        if followed is None:
            return
        followed.placed = True
        held = followed.held()
        if held.replicas and self._index.available:
            self._left.append(held)
            self._noted.set()

    def closed(self, sequence: IndexedSequence, *, finished: bool) -> None:
        """A sequence is over. The log of one whose client went away stays: the client may come back."""
        followed = self._followed.pop(sequence.sequence_id, None)
        if followed is not None and finished and self._index.available:
            self._finished.append(followed)
            self._noted.set()

    def lost(self, kind: ModelKind, replica_id: str) -> None:
        """A replica is gone, and its cache with it."""
        self._lost.append((kind, replica_id))
        self._noted.set()

    async def _write(self, *, running: bool) -> None:
        """Writes what was noted down, and what there is to tell of those that run.

        A replica's end comes after those of its sequences, and nothing of a log after its end.
        """
        if not self._index.available:
            # Redis may have lost everything when it is back; a dead replica counts even if it has not.
            self._left.clear()
            self._finished.clear()
            return
        await self._record(self._left)
        while self._lost and await self._index.drop_replica(*self._lost[0]):
            self._lost.popleft()
        finished = list(self._finished)
        await self._append(self._finished, ttl_s=_FINISHED_LOG_TTL_S)
        self._finished.extend(each for each in finished if each.unlogged)
        if running:
            await self._record(self._newly_placed())
            now = asyncio.get_running_loop().time()
            await self._append(deque(each for each in self._followed.values() if each.log_is_due(now)))

    def _newly_placed(self) -> deque[HeldPrefix]:
        """Where sequences are whose prompt has been processed since the last time."""
        new = [each for each in self._followed.values() if not each.placed and each.sequence.completion]
        for followed in new:
            followed.placed = True
        return deque(followed.held() for followed in new)

    async def _record(self, prefixes: deque[HeldPrefix]) -> None:
        """Writes all that are there now, and takes them away."""
        for num_taken in _portions(len(prefixes)):
            holdings: list[Holding] = []
            for _ in range(num_taken):
                holdings += prefixes.popleft().holdings()
                # A long prompt takes milliseconds to hash.
                await asyncio.sleep(0)
            await self._index.record(holdings)

    async def _append(self, logs: deque[FollowedSequence], *, ttl_s: int | None = None) -> None:
        """Writes the logs of all that are there now, and takes them away."""
        for num_taken in _portions(len(logs)):
            batches: list[tuple[FollowedSequence, LogBatch]] = []
            for _ in range(num_taken):
                followed = logs.popleft()
                batches.append((followed, followed.log_batch()))
                await asyncio.sleep(0)
            answers = await self._index.append_logs([batch for _, batch in batches], ttl_s=ttl_s)
            now = asyncio.get_running_loop().time()
            for (followed, batch), written in zip(batches, answers, strict=True):
                followed.log_answered(batch, written, now)


def _portions(total: int) -> list[int]:
    return [min(_MAX_SEQUENCES, total - start) for start in range(0, total, _MAX_SEQUENCES)]
