"""What replicas share through Redis: who holds which prefix, and what a request has accepted.

Owns the keys (`trivium:2:…`) and what they mean; `redis_link` owns the connection. Correctness never depends on it:
no method raises or keeps a request waiting for longer than the timeout, what Redis says is checked, and without an
answer that can be trusted nothing is known.

- *Prefix blocks* tell which replicas hold the blocks of a prefix, so that a request goes where its prefix is.
- *Token logs* hold the accepted tokens of running requests, so that another orchestrator can resume a stream. Two
  orchestrators that run the same request write the same tokens, as decoding is deterministic: a log needs no owner.

Source: arXiv:2505.21600 §4.3 (prefix indices); deviation: shared between processes instead of kept in one scheduler.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from services.orchestrator.index import prefix_scripts
from services.orchestrator.index.block_hash import BLOCK_LEN, BlockChain
from services.orchestrator.index.command_link import Command, CommandLink
from services.orchestrator.index.replies import DamageReport, ModelKind, read_hits
from services.orchestrator.index.token_log import (
    HEADER_LEN,
    RECORD_LEN,
    LogBatch,
    LogCursor,
    TokenLog,
    log_header,
    read_log,
)
from services.orchestrator.routing.actions import AcceptedToken

_PREFIX = "trivium:2"
_DROPPED = f"{_PREFIX}:dropped"
_MICROSECONDS = 1_000_000
# Of one command; a long prefix needs several.
_MAX_RECORDED_BLOCKS = 512


@dataclass(frozen=True, slots=True)
class IndexedPair:
    """What the index has to know of the pair.

    Args:
        models_identity: At most 64 bytes that differ for other models; blocks are shared, and logs go on, within them
            alone.
        vocab_size: Token ids are below it.
    """

    models_identity: bytes
    vocab_size: int


@dataclass(frozen=True, slots=True)
class PrefixHits:
    """How many leading tokens of a prefix each replica holds, by replica id; whole blocks only."""

    slm: Mapping[str, int] = field(default_factory=dict)
    llm: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Holding:
    """A replica that has the KV of a prefix.

    Args:
        kind: Which of the two models.
        replica_id: The replica.
        blocks: Hashes of the prefix's blocks.
    """

    kind: ModelKind
    replica_id: str
    blocks: Sequence[bytes]


class PrefixIndex:
    """The shared index. Call `start` before use and `close` after.

    Args:
        link: The connection to Redis; None for an index that never knows anything.
        pair: The pair, if it is known already.
        ttl_s: Blocks that weren't used for this long are forgotten.
        log_ttl_s: Token logs that weren't written for this long are forgotten.
    """

    def __init__(
        self,
        link: CommandLink | None,
        *,
        pair: IndexedPair | None = None,
        ttl_s: int = 3600,
        log_ttl_s: int = 900,
    ) -> None:
        self.pair = pair
        """May be set later, but before the first request. Without it, nothing is known."""
        self._link = link
        self._ttl_s = ttl_s
        self._log_ttl_s = log_ttl_s
        self._damage = DamageReport()

    async def start(self) -> None:
        """Connects, waiting at most the timeout; a Redis that isn't there yet is found when it comes."""
        if self._link:
            await self._link.start()

    async def close(self) -> None:
        """Disconnects. Nothing is known from now on."""
        if self._link:
            await self._link.close()

    @property
    def available(self) -> bool:
        """True while Redis can be used."""
        return self._link is not None and self._link.available

    @property
    def problem(self) -> str:
        """Why Redis can't be used, in a few words; empty while it can, and where none is set up."""
        return self._link.problem if self._link else ""

    @property
    def num_commands(self) -> int:
        """Round trips to Redis since the start, probes not counted."""
        return self._link.num_commands if self._link else 0

    @property
    def num_failures(self) -> int:
        """Times that Redis was found unavailable, if only for one command."""
        return self._link.num_failures if self._link else 0

    @property
    def num_damaged(self) -> int:
        """Entries, logs and replies that weren't what the index writes, since the start."""
        return self._damage.num_damaged

    async def lookup(self, token_ids: Sequence[int]) -> PrefixHits:
        """Finds the replicas that hold the first blocks of a prefix."""
        link, pair = self._link, self.pair
        # Hashing is the larger part of a call, so it isn't done for nothing.
        if link is None or pair is None or not link.available or len(token_ids) < BLOCK_LEN:
            return PrefixHits()
        keys = _block_keys(BlockChain(pair.models_identity).hashes(token_ids, len(token_ids)))
        reply = await link.run(*_script(prefix_scripts.LOOKUP, [_DROPPED, *keys], self._ttl_s * _MICROSECONDS))
        if reply is None:
            return PrefixHits()
        hits = read_hits(reply, len(keys))
        self._damage.found("a prefix block", hits.num_damaged)
        return PrefixHits(
            slm={replica_id: num_blocks * BLOCK_LEN for replica_id, num_blocks in hits.slm.items()},
            llm={replica_id: num_blocks * BLOCK_LEN for replica_id, num_blocks in hits.llm.items()},
        )

    def block_chain(self) -> BlockChain:
        """Hashes the blocks of a sequence for `record`, each once."""
        return BlockChain(self.pair.models_identity if self.pair else b"")

    async def record(self, holdings: Sequence[Holding]) -> None:
        """Notes which replicas have processed which prefixes.

        Call it when a prefill is done and when a sequence ends, not for every token.
        """
        commands = []
        for holding in holdings:
            replica = f"{holding.kind}:{holding.replica_id}"
            for start in range(0, len(holding.blocks), _MAX_RECORDED_BLOCKS):
                keys = _block_keys(holding.blocks[start : start + _MAX_RECORDED_BLOCKS])
                commands.append(_script(prefix_scripts.RECORD, keys, replica, self._ttl_s))
        await self._write(commands)

    async def drop_replica(self, kind: ModelKind, replica_id: str) -> bool:
        """Voids all that is known of a replica up to now; what it records afterwards counts.

        Takes the same time however much that is: a tombstone is set, and lookups remove the entries they meet.

        Returns:
            True once Redis has confirmed it.
        """
        replies = await self._write(
            [_script(prefix_scripts.DROP_REPLICA, [_DROPPED], f"{kind}:{replica_id}", self._ttl_s)]
        )
        return replies[0] is not None

    def log_cursor(self, request_id: str, fingerprint: bytes, resumed: Sequence[AcceptedToken]) -> LogCursor:
        """A cursor for the log of a request that begins, or goes on after tokens that were read from it."""
        return LogCursor(request_id, self._header(fingerprint), resumed)

    async def append_logs(self, batches: Sequence[LogBatch], *, ttl_s: int | None = None) -> list[bool | None]:
        """Appends to the logs of requests.

        Args:
            batches: What to append.
            ttl_s: Seconds until the logs are forgotten, if nothing follows. Absent: as long as other logs.

        Returns:
            For each batch: True if the log is known to hold it and all before it, False if the log has to be written
            from the start, None if nothing is known.
        """
        ttl_s = ttl_s or self._log_ttl_s
        replies = await self._write([_append(batch, ttl_s) for batch in batches])
        return [None if reply is None else reply == 1 for reply in replies]

    async def read_log(self, request_id: str, fingerprint: bytes, max_tokens: int) -> TokenLog | None:
        """Reads the first `max_tokens` tokens of a request's log; None if there is none, or it can't be read.

        A log that is damaged ends before that. It costs decoding the rest again, no more.
        """
        if self._link is None or self.pair is None:
            return None
        last = HEADER_LEN + max_tokens * RECORD_LEN - 1
        reply = await self._link.run("GETRANGE", _log_key(request_id), 0, last)
        if reply is None or reply == b"":
            return None
        if not isinstance(reply, bytes):
            self._damage.found("a token log")
            return None
        log = read_log(reply, self._header(fingerprint), self.pair.vocab_size)
        self._damage.found("a token log", log.damaged)
        return log if log.belongs or not log.damaged else None

    def _header(self, fingerprint: bytes) -> bytes:
        return log_header(fingerprint, self.pair.models_identity if self.pair else b"")

    async def _write(self, commands: Sequence[Command]) -> Sequence[int | None]:
        """Runs commands that all answer with a number. One that answers with something else might not have run."""
        if self._link is None or self.pair is None or not commands:
            return [None] * len(commands)
        replies = await self._link.run_all(commands)
        self._damage.found("a reply", sum(reply is not None and not isinstance(reply, int) for reply in replies))
        return [reply if isinstance(reply, int) else None for reply in replies]


def _append(batch: LogBatch, ttl_s: int) -> Command:
    arguments = (batch.header, batch.position * RECORD_LEN, batch.check_before, batch.records, ttl_s)
    return _script(prefix_scripts.APPEND_LOG, [_log_key(batch.request_id)], *arguments)


def _script(script: str, keys: Sequence[str], *arguments: bytes | str | int) -> Command:
    return ("EVAL", script, len(keys), *keys, *arguments)


def _block_keys(blocks: Sequence[bytes]) -> list[str]:
    return [f"{_PREFIX}:block:{digest.hex()}" for digest in blocks]


def _log_key(request_id: str) -> str:
    return f"{_PREFIX}:log:{request_id}"
