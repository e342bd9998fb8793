"""A sequence that runs, as the prefix index sees it: where it is, and what of it has been written down.

Owns what the index needs to know of a sequence, and nothing of when it is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from services.orchestrator.index.block_hash import BlockChain
from services.orchestrator.index.prefix_index import Holding, PrefixIndex
from services.orchestrator.index.replies import ModelKind
from services.orchestrator.index.token_log import LogBatch, LogCursor
from services.orchestrator.requests.task import GenerationTask
from services.orchestrator.routing.actions import AcceptedToken

# A log about which there is nothing new is looked after this often: Redis may have lost it, or be about to.
_CHECK_INTERVAL_S = 5.0


class _Core(Protocol):
    @property
    def tokens(self) -> Sequence[int]: ...
    @property
    def accepted_len(self) -> int: ...
    @property
    def llm_held_len(self) -> int: ...


class _Replica(Protocol):
    @property
    def replica_id(self) -> str: ...


class IndexedSequence(Protocol):
    """What the index needs to know of a sequence."""

    @property
    def sequence_id(self) -> int:
        """Its name."""

    @property
    def task(self) -> GenerationTask:
        """What was asked for."""

    @property
    def completion(self) -> Sequence[AcceptedToken]:
        """What it has accepted; it only grows."""

    @property
    def core(self) -> _Core:
        """Its tokens, those before `accepted_len` for good, and how many of them the LLM holds."""

    @property
    def slm(self) -> _Replica | None:
        """The SLM replica that has it."""

    @property
    def llm(self) -> _Replica | None:
        """The LLM replica that has it, though perhaps none of its tokens yet."""


@dataclass(frozen=True, slots=True)
class HeldPrefix:
    """What replicas hold of a sequence.

    Args:
        blocks: Hashes the sequence's blocks.
        tokens: The sequence.
        replicas: Kind, replica id and number of leading tokens.
    """

    blocks: BlockChain
    tokens: Sequence[int]
    replicas: Sequence[tuple[ModelKind, str, int]]

    def holdings(self) -> list[Holding]:
        """The same in blocks. Hashes those that are new."""
        return [
            Holding(kind, replica_id, self.blocks.hashes(self.tokens, held_len))
            for kind, replica_id, held_len in self.replicas
        ]


class FollowedSequence:
    """A sequence and what the index has been told of it.

    Args:
        sequence: The sequence. What it has accepted already, it resumes: that is in its log.
        index: The index.

    Attributes:
        sequence: The sequence.
        placed: Whether there is nothing to tell of where it runs, until it ends.
    """

    def __init__(self, sequence: IndexedSequence, index: PrefixIndex) -> None:
        self.sequence = sequence
        self.placed = False
        self._index = index
        self._blocks = index.block_chain()
        self._num_resumed = len(sequence.completion)
        self._cursor: LogCursor | None = None
        self._checked_at = float("-inf")

    def held(self) -> HeldPrefix:
        """What its replicas hold of it now."""
        sequence, core = self.sequence, self.sequence.core
        replicas: list[tuple[ModelKind, str, int]] = []
        if sequence.slm is not None:
            # The SLM hasn't processed the last token, since nothing follows it.
            replicas.append(("slm", sequence.slm.replica_id, core.accepted_len - 1))
        if sequence.llm is not None and core.llm_held_len:
            replicas.append(("llm", sequence.llm.replica_id, min(core.llm_held_len, core.accepted_len)))
        # Accepted tokens never change, so they may be read later as well.
        return HeldPrefix(self._blocks, core.tokens, replicas)

    @property
    def unlogged(self) -> bool:
        """Whether its log isn't known to hold all that it has accepted."""
        num_logged = self._num_resumed if self._cursor is None else self._cursor.num_logged
        return len(self.sequence.completion) > num_logged

    def log_is_due(self, now: float) -> bool:
        """Whether its log is to be written, or to be looked after.

        Args:
            now: Time of the event loop, in seconds.
        """
        return self.unlogged or (bool(self.sequence.completion) and now >= self._checked_at + _CHECK_INTERVAL_S)

    def log_batch(self) -> LogBatch:
        """What its log isn't known to hold, as far as it is written at once. The first time hashes the prompt."""
        if self._cursor is None:
            task = self.sequence.task
            resumed = self.sequence.completion[: self._num_resumed]
            self._cursor = self._index.log_cursor(task.request_id, task.fingerprint(), resumed)
        return self._cursor.batch(self.sequence.completion)

    def log_answered(self, batch: LogBatch, written: bool | None, now: float) -> None:
        """Redis has answered to a batch, or not: then it is part of the next one again."""
        assert self._cursor is not None, "it made the batch"
        if written:
            self._cursor.written(batch)
            self._checked_at = now
        elif written is False:
            self._cursor.missing()
