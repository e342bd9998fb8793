"""Prefix indexes of tests, before a Redis of their own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from services.orchestrator.index.prefix_index import Holding, IndexedPair, PrefixIndex
from services.orchestrator.index.redis_link import RedisLink
from services.orchestrator.index.replies import ModelKind

PAIR = IndexedPair(models_identity=b"models", vocab_size=1000)

CALL_LIMIT_S = 2.5
"""Above the timeout of these indexes."""


@asynccontextmanager
async def started_index(
    url: str | None,
    *,
    pair: IndexedPair = PAIR,
    # A busy machine can keep an answer waiting for longer than the default allows.
    timeout_s: float = 1.0,
    password: str | None = None,
    **options: Any,
) -> AsyncIterator[PrefixIndex]:
    """An index that is connected, or has tried to."""
    index = PrefixIndex(RedisLink(url, timeout_s, password) if url else None, pair=pair, **options)
    await index.start()
    try:
        yield index
    finally:
        await index.close()


async def until_available(index: PrefixIndex | RedisLink, limit_s: float) -> float:
    """Waits until Redis can be used, and returns for how long."""
    start = time.monotonic()
    while not index.available:
        assert time.monotonic() - start < limit_s, "the index isn't back in time"
        await asyncio.sleep(0.01)
    return time.monotonic() - start


async def record(
    index: PrefixIndex, kind: ModelKind, replica_id: str, token_ids: Sequence[int], num_processed: int
) -> None:
    """Notes that a replica has processed the first tokens of a sequence."""
    await index.record([Holding(kind, replica_id, index.block_chain().hashes(token_ids, num_processed))])
