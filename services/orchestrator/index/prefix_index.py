"""What replicas share through Redis: who holds which prefix, where a sequence lives, what a request has accepted.

Owns the keys (`trivium:1:…`) and what they mean; `redis_link` owns the connection. Correctness
never depends on it: no method raises or waits longer than the timeout, and without an answer nothing is known.

- *Prefix blocks* tell which replicas hold the blocks of a prefix, so that a request goes where its prefix is.
- *Sequence locations* tell which replica has a sequence and how many of its tokens it has processed.
- *Token logs* hold the accepted tokens of running requests, so that another orchestrator can resume a stream. Two
  orchestrators that run the same request write the same tokens, as decoding is deterministic: a log needs no owner.

Source: arXiv:2505.21600 §4.3 (prefix indices); deviation: shared between processes instead of kept in one scheduler.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from services.orchestrator.index import prefix_scripts
from services.orchestrator.index.block_hash import BLOCK_LEN, block_hashes
from services.orchestrator.index.redis_link import RedisLink
from services.orchestrator.index.token_log import LogBatch, TokenLog, join_batches, pack_tokens

ModelKind = Literal["slm", "llm"]

_PREFIX = "trivium:1"
_DROPPED = f"{_PREFIX}:dropped"
_MICROSECONDS = 1_000_000


@dataclass(frozen=True, slots=True)
class PrefixHits:
    """How many leading tokens of a prefix each replica holds, by replica id; whole blocks only."""

    slm: Mapping[str, int] = field(default_factory=dict)
    llm: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Placement:
    """A replica that has a sequence, and the number of its leading tokens that it has processed."""

    replica_id: str
    num_processed: int


@dataclass(frozen=True, slots=True)
class SequenceLocation:
    """Where a sequence lives, as far as it is known."""

    slm: Placement | None = None
    llm: Placement | None = None


class PrefixIndex:
    """The shared index. Call `start` before use and `close` after.

    Args:
        url: `redis://`, `rediss://` or `unix://`; None for an index that never knows anything.
        password: Redis's, for a URL that holds none.
        pair_identity: At most 64 bytes; blocks are shared, and logs go on, within a pair alone.
        timeout_ms: Longest that a call waits for Redis.
        ttl_s: Blocks and locations that weren't used for this long are forgotten.
        log_ttl_s: Token logs that weren't appended to for this long are forgotten.

    Raises:
        ValueError: The URL can't be read. The message doesn't repeat it, because it may hold a password.
    """

    def __init__(
        self,
        url: str | None,
        *,
        pair_identity: bytes = b"",
        password: str | None = None,
        timeout_ms: int = 50,
        ttl_s: int = 3600,
        log_ttl_s: int = 900,
    ) -> None:
        self.pair_identity = pair_identity
        """May be set later, but before the first request."""
        self._ttl_s = ttl_s
        self._log_ttl_s = log_ttl_s
        self._redis = RedisLink(url, timeout_ms / 1000, password) if url else None

    async def start(self) -> None:
        """Connects, waiting at most the timeout; a Redis that isn't there yet is found when it comes."""
        if self._redis:
            await self._redis.start()

    async def close(self) -> None:
        """Disconnects. Nothing is known from now on."""
        if self._redis:
            await self._redis.close()

    @property
    def available(self) -> bool:
        """True while Redis answers."""
        return self._redis is not None and self._redis.available

    @property
    def num_commands(self) -> int:
        """Round trips to Redis since the start, probes not counted."""
        return self._redis.num_commands if self._redis else 0

    @property
    def num_failures(self) -> int:
        """Times that Redis was found unavailable, if only for one command."""
        return self._redis.num_failures if self._redis else 0

    async def lookup(self, token_ids: Sequence[int]) -> PrefixHits:
        """Finds the replicas that hold the first blocks of a prefix."""
        blocks = self._block_keys(token_ids)
        if not blocks:
            return PrefixHits()
        reply = await self._run_script(prefix_scripts.LOOKUP, [_DROPPED, *blocks], self._ttl_s * _MICROSECONDS)
        hits: dict[str, dict[str, int]] = {"slm": {}, "llm": {}}
        for replica, num_blocks in _grouped(reply, 2):
            kind, _, replica_id = replica.decode().partition(":")
            hits[kind][replica_id] = num_blocks * BLOCK_LEN
        return PrefixHits(**hits)

    async def record(
        self, kind: ModelKind, replica_id: str, sequence_id: int, token_ids: Sequence[int], num_processed: int
    ) -> None:
        """Notes that a replica has processed the first `num_processed` tokens of a sequence.

        Call it when a prefill is done and when a sequence ends, not for every token.

        Args:
            kind: Which of the two models.
            replica_id: The replica.
            sequence_id: The sequence.
            token_ids: The sequence's tokens, at least `num_processed`.
            num_processed: Leading tokens whose KV the replica has.
        """
        keys = [_sequence_key(sequence_id), *self._block_keys(token_ids[:num_processed])]
        await self._run_script(prefix_scripts.RECORD, keys, kind, replica_id, num_processed, self._ttl_s)

    async def locate(self, sequence_id: int) -> SequenceLocation:
        """Tells which replicas have a sequence."""
        reply = await self._run_script(prefix_scripts.LOCATE, [_sequence_key(sequence_id), _DROPPED])
        placements = {
            kind.decode(): Placement(replica_id.decode(), num_processed)
            for kind, replica_id, num_processed in _grouped(reply, 3)
        }
        return SequenceLocation(**placements)

    async def forget(self, sequence_id: int) -> None:
        """Drops the location of a sequence. Its blocks stay: the replicas' prefix caches still hold them."""
        await self._run("DEL", _sequence_key(sequence_id))

    async def drop_replica(self, kind: ModelKind, replica_id: str) -> None:
        """Voids all that is known of a replica up to now; what it records afterwards counts.

        Takes the same time however much that is: a tombstone is set, and lookups remove the entries they meet.
        """
        await self._run_script(prefix_scripts.DROP_REPLICA, [_DROPPED], f"{kind}:{replica_id}", self._ttl_s)

    async def append_logs(self, batches: Sequence[LogBatch]) -> None:
        """Appends to the logs of running requests, in one round trip. One at position 0 begins its log anew."""
        if self._redis and batches:
            await self._redis.run_all([self._append_command(batch) for batch in batches])

    async def read_log(self, request_id: str) -> TokenLog | None:
        """Reads the log of a request; None if there is none, or it can't be read.

        A batch that was lost while Redis was away ends it early. That costs decoding the rest again, no more.
        """
        entries: dict[bytes, bytes] = await self._run("HGETALL", _log_key(request_id)) or {}
        fingerprint = entries.pop(b"fingerprint", None)
        if fingerprint is None:
            return None
        # That of another pair keeps its identity, and so is no request's here.
        fingerprint = fingerprint.removesuffix(self.pair_identity)
        try:
            return TokenLog(fingerprint, join_batches({int(position): batch for position, batch in entries.items()}))
        except ValueError:
            return None

    async def close_log(self, request_id: str) -> None:
        """Drops the log of a request that has finished.

        One whose client went away is left to expire: the client may come back for the rest.
        """
        await self._run("DEL", _log_key(request_id))

    def _append_command(self, batch: LogBatch) -> tuple[bytes | str | int, ...]:
        fingerprint = batch.fingerprint + self.pair_identity
        arguments = (fingerprint, batch.position, pack_tokens(batch.tokens), self._log_ttl_s)
        return ("EVAL", prefix_scripts.APPEND_LOG, 1, _log_key(batch.request_id), *arguments)

    def _block_keys(self, token_ids: Sequence[int]) -> list[str]:
        # Hashing is the larger part of a call, so it isn't done for nothing.
        if not self.available:
            return []
        return [f"{_PREFIX}:block:{digest.hex()}" for digest in block_hashes(token_ids, self.pair_identity)]

    async def _run_script(self, script: str, keys: Sequence[str], *arguments: bytes | str | int) -> Any:
        return await self._run("EVAL", script, len(keys), *keys, *arguments)

    async def _run(self, *command: bytes | str | int) -> Any:
        return await self._redis.run(*command) if self._redis else None


def _sequence_key(sequence_id: int) -> str:
    return f"{_PREFIX}:sequence:{sequence_id}"


def _log_key(request_id: str) -> str:
    return f"{_PREFIX}:log:{request_id}"


def _grouped(reply: list[Any] | None, size: int) -> list[tuple[Any, ...]]:
    return list(zip(*[iter(reply or [])] * size, strict=True))
