"""Reads what Redis says, which may be anything: other software, an operator or a fault may have written there.

Owns the shapes of replies, and the report of those that have another. None of it raises: what isn't understood counts
as nothing known.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

ModelKind = Literal["slm", "llm"]

_REPORT_INTERVAL_S = 60.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BlockHits:
    """Who holds how many leading blocks of a prefix, by replica id.

    Args:
        slm: Of the SLM replicas.
        llm: Of the LLM replicas.
        num_damaged: Places that held something else.
    """

    slm: Mapping[str, int] = field(default_factory=dict)
    llm: Mapping[str, int] = field(default_factory=dict)
    num_damaged: int = 0


def read_hits(reply: Any, num_blocks: int) -> BlockHits:
    """Reads the reply to a lookup of `num_blocks` blocks."""
    if not isinstance(reply, list) or not reply or not _is_count(reply[0]):
        return BlockHits(num_damaged=1)
    num_damaged: int = reply[0]
    hits: dict[str, dict[str, int]] = {"slm": {}, "llm": {}}
    # An odd one out at the end belongs to no pair.
    for replica, num_held in zip(reply[1::2], [*reply[2::2], None], strict=False):
        kind, _, replica_id = _text(replica).partition(":")
        if kind in hits and replica_id and _is_count(num_held) and 0 < num_held <= num_blocks:
            hits[kind][replica_id] = num_held
        else:
            num_damaged += 1
    return BlockHits(**hits, num_damaged=num_damaged)


class DamageReport:
    """Counts what was found that isn't the index's, and says so once in a while.

    Attributes:
        num_damaged: Replies or places since the start.
    """

    def __init__(self) -> None:
        self.num_damaged = 0
        self._next_time = float("-inf")

    def found(self, what: str, count: int = 1) -> None:
        """Something was found; with a count of 0, nothing was.

        Args:
            what: Where, in general words: a key may carry what a client has chosen.
            count: How often.
        """
        self.num_damaged += count
        now = asyncio.get_running_loop().time()
        if count and now >= self._next_time:
            self._next_time = now + _REPORT_INTERVAL_S
            _log.warning("prefix index: %s in Redis is damaged or not Trivium's; it counts for nothing", what)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and value >= 0


def _text(value: Any) -> str:
    """A replica as text; empty if it is none."""
    try:
        return value.decode() if isinstance(value, bytes) else ""
    except UnicodeDecodeError:
        return ""
