"""Greedy continuations of many prefixes by one model, on any engine.

Owns which sequences are open when. A labelling run writes hundreds of thousands of short continuations: the writer
keeps the engine's batch full, and runs a prefix that many of them share once, for the prefix cache to hand it to the
others.

Which rows share a pass decides the last bits of their logits. So everything here follows from the arguments alone:
each call starts with an empty prefix cache, rows are opened in order, and nothing looks at a clock. The same call
then gives the same tokens on the `transformers` engine. SGLang's scheduler forms batches as requests arrive, so there
a near-tie may fall differently from run to run.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType

from services.common.errors import CapacityExceeded, ContextLengthExceeded
from services.engines.base import DraftStep, ModelInfo, SlmEngine

ShouldStop = Callable[[int, list[int]], bool]
"""Tells from a row's number and the tokens written for it whether it has enough."""


@dataclass(slots=True)
class _Row:
    number: int
    prefix_len: int = 0
    written: list[int] = field(default_factory=list)


@dataclass(slots=True)
class _Family:
    """Rows that wait for trunks."""

    rows: list[_Row] = field(default_factory=list)
    num_trunks_left: int = 0


@dataclass(slots=True)
class _Trunk:
    token_ids: Sequence[int]
    family: _Family


class GreedyWriter:
    """A context manager: the engine runs within it.

    Args:
        engine: Loads the model when it is started.
        max_open: Sequences that are open at a time; more than the engine's batch holds only wait.
        context_len: Longest sequence that is wanted; None for the longest that the engine takes.
    """

    def __init__(self, engine: SlmEngine, max_open: int, context_len: int | None = None) -> None:
        self._engine = engine
        self._max_open = max_open
        self._context_len = context_len
        self._runner = asyncio.Runner()

    def __enter__(self) -> GreedyWriter:
        try:
            self._runner.run(self._engine.start())
        except BaseException:
            self._runner.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._runner.run(self._engine.stop())
        finally:
            self._runner.close()

    @property
    def info(self) -> ModelInfo:
        """What the model is."""
        return self._engine.info

    @property
    def num_tokens_processed(self) -> int:
        """Tokens that were run through the model so far; those from the prefix cache don't count."""
        return self._engine.load.num_tokens_processed

    def write(
        self,
        prefixes: Sequence[Sequence[int]],
        max_new_tokens: int,
        should_stop: ShouldStop | None = None,
        trunks: Mapping[int, Sequence[Sequence[int]]] | None = None,
        on_tokens: Callable[[int], None] | None = None,
    ) -> list[list[int]]:
        """Continues prefixes greedily.

        Args:
            prefixes: Token ids, one row each; looked up when the row is opened, so they may be made on demand.
            max_new_tokens: Limit of every row; a row also ends where the context does.
            should_stop: Asked after every token of a row that didn't end it.
            trunks: Prefixes that rows have in common, by the first row that they serve; they serve the rows up to the
                next entry. Trunks are run once, before these rows; they should fit into the KV budget together.
            on_tokens: Told how many tokens a step wrote.

        Returns:
            What was written for each row, in order: the end-of-sequence token is there where it was reached.

        Raises:
            InvalidRequest: A prefix is empty, or an id is outside the vocabulary.
            ContextLengthExceeded: A prefix leaves no room for one token.
            CapacityExceeded: A row is to go on, and fills the engine's KV budget.
        """
        context_len = self._context_len or self.info.context_len
        run = _Run(
            self._engine,
            _Limits(self._max_open, max_new_tokens, context_len),
            prefixes,
            should_stop or (lambda _row, _written: False),
            on_tokens or (lambda _num_tokens: None),
        )
        rows = [_Row(number) for number in range(len(prefixes))]
        self._runner.run(run.write(rows, trunks or {}))
        return [row.written for row in rows]


@dataclass(frozen=True, slots=True)
class _Limits:
    num_open: int
    num_new_tokens: int
    context_len: int


class _Run:
    """One call of `write`."""

    def __init__(
        self,
        engine: SlmEngine,
        limits: _Limits,
        prefixes: Sequence[Sequence[int]],
        should_stop: ShouldStop,
        on_tokens: Callable[[int], None],
    ) -> None:
        self._engine = engine
        self._limits = limits
        self._prefixes = prefixes
        self._should_stop = should_stop
        self._on_tokens = on_tokens
        self._stop_ids = frozenset(engine.info.eos_token_ids)
        self._families: deque[tuple[_Family, Sequence[Sequence[int]]]] = deque()
        self._trunks: deque[_Trunk] = deque()
        self._ready: deque[_Row] = deque()
        self._open: dict[int, _Row | _Trunk] = {}
        # Rows that are ready, or will be when the trunks that run have run.
        self._num_waiting = 0
        self._num_opened = 0

    async def write(self, rows: Sequence[_Row], trunks: Mapping[int, Sequence[Sequence[int]]]) -> None:
        await self._engine.clear_prefix_cache()
        for row in rows:
            if row.number == 0 or row.number in trunks:
                self._families.append((_Family(), trunks.get(row.number, ())))
            self._families[-1][0].rows.append(row)
        try:
            while self._admit():
                self._take(await self._engine.step())
        finally:
            for sequence_id in self._open:
                self._engine.close(sequence_id)

    def _admit(self) -> bool:
        """Opens what fits; says whether anything is open."""
        # Trunks run while a batch of rows still waits, so that there are rows whenever others end.
        while self._families and self._num_waiting < self._limits.num_open:
            self._start_family(*self._families.popleft())
        while len(self._open) < self._limits.num_open:
            if self._trunks:
                trunk = self._trunks.popleft()
                self._start(trunk, trunk.token_ids, 1)
            elif self._ready:
                row = self._ready.popleft()
                prefix = self._prefixes[row.number]
                row.prefix_len = len(prefix)
                self._start(row, prefix, self._num_left(row))
                self._num_waiting -= 1
            else:
                break
        return bool(self._open)

    def _start_family(self, family: _Family, trunks: Sequence[Sequence[int]]) -> None:
        self._num_waiting += len(family.rows)
        family.num_trunks_left = len(trunks)
        self._trunks.extend(_Trunk(token_ids, family) for token_ids in trunks)
        if not trunks:
            self._ready.extend(family.rows)

    def _num_left(self, row: _Row) -> int:
        num_tokens = len(row.written)
        return min(self._limits.num_new_tokens, self._limits.context_len - row.prefix_len) - num_tokens

    def _start(self, opened: _Row | _Trunk, token_ids: Sequence[int], num_new_tokens: int) -> None:
        if len(token_ids) >= self._limits.context_len:
            raise ContextLengthExceeded(
                f"prefixes: {len(token_ids)} tokens leave no room in a context of {self._limits.context_len}"
            )
        draft_until = len(token_ids) + num_new_tokens
        number = self._num_opened
        self._engine.open(
            number, token_ids, epoch=0, draft_until=draft_until, stop_token_ids=self._stop_ids, priority=number
        )
        self._open[number] = opened
        self._num_opened += 1

    def _take(self, step: DraftStep) -> None:
        num_written = 0
        for sequence_id, token_id in zip(step.sequence_ids, step.token_ids, strict=True):
            opened = self._open[sequence_id]
            if isinstance(opened, _Trunk):
                self._close(sequence_id)
                opened.family.num_trunks_left -= 1
                if opened.family.num_trunks_left == 0:
                    self._ready.extend(opened.family.rows)
                continue
            opened.written.append(token_id)
            num_written += 1
            if self._has_ended(opened):
                self._close(sequence_id)
            elif (num_tokens := opened.prefix_len + len(opened.written)) >= self._engine.info.context_len:
                # A row that ended here would pass for one that the model's own context ended.
                raise CapacityExceeded(f"kv_cache_tokens: a sequence of {num_tokens} tokens fills all of it")
        for refusal in step.refusals:
            raise refusal.error
        self._on_tokens(num_written)

    def _has_ended(self, row: _Row) -> bool:
        return (
            row.written[-1] in self._stop_ids
            or self._num_left(row) == 0
            or self._should_stop(row.number, row.written)
        )

    def _close(self, sequence_id: int) -> None:
        del self._open[sequence_id]
        self._engine.close(sequence_id)
