"""What this orchestrator tells the prefix index, and asks of it, about the sequences that it runs.

Owns when the index is written: at a steady pace while sequences run, and when they end; never for a token. The index
itself, and that none of this can hurt a stream, is `prefix_index`'s.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any

from services.common.errors import InvalidRequest
from services.orchestrator.index.prefix_index import ModelKind, PrefixIndex
from services.orchestrator.index.token_log import LogBatch
from services.orchestrator.requests.parse import GenerationTask
from services.orchestrator.routing.actions import AcceptedToken
from services.orchestrator.sequences.running import RunningSequences
from services.orchestrator.sequences.sequence import RunningSequence


class IndexWriter:
    """Keeps the index up to date.

    Args:
        index: The shared index.
        sequences: All running sequences.
        interval_s: Seconds between two writes while sequences run.
    """

    def __init__(self, index: PrefixIndex, sequences: RunningSequences, interval_s: float) -> None:
        self._index = index
        self._sequences = sequences
        self._interval_s = interval_s
        self._num_logged: dict[int, int] = {}
        self._located: set[int] = set()
        self._background: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Writes token logs and new placements until cancelled."""
        while True:
            await asyncio.sleep(self._interval_s)
            if self._index.available:
                await self._write_logs()
                await self._write_placements()

    async def resumed_tokens(self, task: GenerationTask) -> Sequence[AcceptedToken]:
        """The tokens that an earlier stream of a request has accepted; decoding gives the same ones without.

        Raises:
            InvalidRequest: The request id belongs to another request.
        """
        log = await self._index.read_log(task.request_id) if task.resume_from else None
        if log is None:
            return ()
        if log.fingerprint != task.fingerprint():
            raise InvalidRequest(
                f"request_id: {task.request_id!r} belongs to a request with another prompt, options or pair"
            )
        return log.tokens[: task.max_new_tokens]

    def opened(self, sequence: RunningSequence) -> None:
        """A sequence runs. What it resumes is in the log already."""
        self._num_logged[sequence.sequence_id] = len(sequence.resumed)

    def leaving(self, sequence: RunningSequence) -> None:
        """A sequence is about to leave its replicas, whose prefix caches go on holding it."""
        self._located.discard(sequence.sequence_id)
        if replica_ids := _replica_ids(sequence):
            self._in_background(self._record_end(sequence, replica_ids))

    def closed(self, sequence: RunningSequence, *, finished: bool) -> None:
        """A sequence is over. The log of one whose client went away stays: the client may come back."""
        del self._num_logged[sequence.sequence_id]
        if finished:
            self._in_background(self._index.close_log(sequence.task.request_id))

    def lost(self, kind: ModelKind, replica_id: str) -> None:
        """A replica is gone, and its cache with it."""
        self._in_background(self._index.drop_replica(kind, replica_id))

    async def _write_logs(self) -> None:
        running = self._sequences
        news = [sequence for sequence in running if len(sequence.completion) > self._num_logged[sequence.sequence_id]]
        await self._index.append_logs([self._log_batch(sequence) for sequence in news])

    def _log_batch(self, sequence: RunningSequence) -> LogBatch:
        """Takes what has not been logged yet."""
        start = self._num_logged[sequence.sequence_id]
        self._num_logged[sequence.sequence_id] = len(sequence.completion)
        task = sequence.task
        return LogBatch(task.request_id, task.fingerprint(), start, sequence.completion[start:])

    async def _write_placements(self) -> None:
        """Tells where sequences are whose prompt has been processed since the last time."""
        for sequence in self._sequences:
            if sequence.completion and sequence.running and sequence.sequence_id not in self._located:
                self._located.add(sequence.sequence_id)
                await self._record(sequence, _replica_ids(sequence))

    async def _record_end(self, sequence: RunningSequence, replica_ids: Mapping[ModelKind, str]) -> None:
        await self._record(sequence, replica_ids)
        await self._index.forget(sequence.sequence_id)

    async def _record(self, sequence: RunningSequence, replica_ids: Mapping[ModelKind, str]) -> None:
        tokens = list(sequence.core.tokens[: sequence.core.accepted_len])
        # The SLM hasn't processed the last token, since nothing follows it.
        held_lens = {"slm": len(tokens) - 1, "llm": min(sequence.core.llm_held_len, len(tokens))}
        for kind, replica_id in replica_ids.items():
            await self._index.record(kind, replica_id, sequence.sequence_id, tokens, held_lens[kind])

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)


def _replica_ids(sequence: RunningSequence) -> dict[ModelKind, str]:
    """The replicas that hold something of a sequence."""
    replica_ids: dict[ModelKind, str] = {}
    if sequence.slm is not None:
        replica_ids["slm"] = sequence.slm.replica_id
    if sequence.llm is not None and sequence.was_asked_about:
        replica_ids["llm"] = sequence.llm.replica_id
    return replica_ids
