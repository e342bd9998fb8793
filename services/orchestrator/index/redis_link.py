"""The connection to a Redis that may be gone, slow, or not to be used.

The only importer of redis. Owns the time limit and the circuit breaker; knows no keys but those that it probes with.

One task talks to Redis, over one connection: what waits meanwhile shares the next round trip. Waiting for one's turn
thus never counts as Redis's slowness, however many requests come at once, and a caller that goes away leaves no
reply behind for the next one.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redis import exceptions
from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from services.orchestrator.index.command_link import Command, Refused
from services.orchestrator.index.contained import contained

_PROBE_KEY = "trivium:2:probe"
_PROBE_INTERVAL_S = 0.5
# After a fault that nobody thought of.
_PAUSE_S = 5.0
# A few ms of work for Redis, however it is divided.
_MAX_BATCH_BYTES = 256 * 1024
# While the event loop is busy, a reply may have come and not have been read: that is one slice at most.
_TIMEOUT_SLICES = 5

# Writes, since a Redis that only reads or is full is of no use; and all that the index's scripts call, since a user
# of Redis may be allowed a part of it.
_PROBE_SCRIPT = """
redis.call('TIME')
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'a', 1)
redis.call('HGETALL', KEYS[1])
redis.call('HDEL', KEYS[1], 'a')
redis.call('SET', KEYS[1], 'a', 'EX', 60)
redis.call('SETRANGE', KEYS[1], 1, 'b')
redis.call('EXPIRE', KEYS[1], 60)
return redis.call('GETRANGE', KEYS[1], 0, 1)
"""
_PROBE: tuple[Command, ...] = (("SET", _PROBE_KEY, 1, "EX", 60), ("EVAL", _PROBE_SCRIPT, 1, _PROBE_KEY))

_CERTIFICATE_REFUSED = "certificate refused"
_PROBLEMS: tuple[tuple[type[Exception], str], ...] = (
    (exceptions.AuthenticationError, "wrong password"),
    (exceptions.NoPermissionError, "no permission"),
    (exceptions.ReadOnlyError, "read-only"),
    (exceptions.OutOfMemoryError, "out of memory"),
    (exceptions.BusyLoadingError, "loading its data"),
    (exceptions.ResponseError, "refuses commands"),
    # What else redis-py may make of a peer that speaks another language.
    (exceptions.InvalidResponse, "not a Redis"),
    (ValueError, "not a Redis"),
    (RecursionError, "not a Redis"),
    (exceptions.RedisError, "unreachable"),
    (OSError, "unreachable"),
)
# Of an error in a script, Redis 6 tells the kind in the text alone.
_PROBLEM_TEXTS = (
    ("Authentication required", "password required"),
    ("can't run this command", "no permission"),
    ("can't access at least one of the keys", "no permission"),
    ("-READONLY", "read-only"),
    ("-OOM", "out of memory"),
    ("CERTIFICATE_VERIFY_FAILED", _CERTIFICATE_REFUSED),
)

_FAULTS = tuple(kind for kind, _ in _PROBLEMS)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class _Call:
    """A command, and who waits for its reply; one that is done waits no more."""

    command: Command
    reply: asyncio.Future[Any]

    def answer(self, reply: Any) -> None:
        if not self.reply.done():
            self.reply.set_result(reply)


class RedisLink:
    """Runs commands against Redis: one bounded attempt each, and none while Redis is known to be of no use.

    The first failure opens the circuit: commands return at once, and probes go on until Redis can be used.

    Args:
        url: `redis://`, `rediss://` or `unix://`.
        timeout_s: Longest that `run` waits, and longest that Redis may take for a round trip.
        password: For a URL that holds none.
        ca_file: PEM file of the CA that Redis's certificate is of, for a `rediss://` URL; None for the system's.

    Attributes:
        available: True while Redis can be used.
        problem: Why it can't: "unreachable", "wrong password", "password required", "no permission", "read-only",
            "out of memory", "loading its data", "refuses commands", "not a Redis" or "certificate refused". Empty
            while it can.
        num_commands: Round trips since the start, probes not counted.
        num_failures: Times that Redis was found unavailable, if only for one command.

    Raises:
        ValueError: The URL can't be read. The message doesn't repeat it, because it may hold a password.
    """

    def __init__(self, url: str, timeout_s: float, password: str | None = None, ca_file: Path | None = None) -> None:
        try:
            pool = ConnectionPool.from_url(
                url,
                password=password,
                **({"ssl_ca_certs": str(ca_file)} if ca_file else {}),
                socket_connect_timeout=timeout_s,
                # Round trips are bounded below.
                socket_timeout=None,
                # RESP2 needs no handshake.
                protocol=2,
                retry=Retry(NoBackoff(), 0),
            )
        except ValueError:
            raise ValueError("redis_url: expected redis://, rediss:// or unix://, a host, and a port") from None
        self._client = Redis.from_pool(pool)
        self._timeout_s = timeout_s
        location = pool.connection_kwargs
        self._name = location.get("path") or f"{location.get('host', 'localhost')}:{location.get('port', 6379)}"
        self._waiting: deque[_Call] = deque()
        self._under_way: list[_Call] = []
        self._wanted = asyncio.Event()
        self._probed = asyncio.Event()
        self._serving: asyncio.Task[None] | None = None
        self.available = False
        self.problem = ""
        self.num_commands = 0
        self.num_failures = 0

    async def start(self) -> None:
        """Connects, waiting at most the timeout; a Redis that isn't there yet is found when it comes."""
        self._serving = asyncio.create_task(self._keep_serving())
        await self._probed.wait()

    async def close(self) -> None:
        """Disconnects. There are no replies from now on."""
        self.available, self.problem = False, ""
        if self._serving:
            self._serving.cancel()
            await asyncio.gather(self._serving, return_exceptions=True)
        self._answer_none()
        await self._client.aclose()

    async def run(self, *command: bytes | str | int) -> Any:
        """Runs a command that a request waits for, so not for longer than the timeout.

        Returns:
            The reply, with the types that redis-py gives it; `Refused` for an error; None without a reply.
        """
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._submit(command)
        except TimeoutError:
            return None

    async def run_all(self, commands: Sequence[Command]) -> Sequence[Any]:
        """Runs commands that nothing waits for, in order. Returns what `run` does, for each of them."""
        return await asyncio.gather(*[self._submit(command) for command in commands])

    def _submit(self, command: Command) -> asyncio.Future[Any]:
        call = _Call(command, asyncio.get_running_loop().create_future())
        if self.available:
            self._waiting.append(call)
            self._wanted.set()
        else:
            call.answer(None)
        return call.reply

    async def _keep_serving(self) -> None:
        """Serves until cancelled, through faults that nobody thought of as well."""
        while True:
            error = await contained(self._serve())
            _log.error("prefix index: the connection to Redis failed unexpectedly", exc_info=error)
            self._mark_away("unreachable")
            await asyncio.sleep(_PAUSE_S)

    async def _serve(self) -> None:
        while True:
            await self._until_usable()
            while self.available:
                await self._wanted.wait()
                self._wanted.clear()
                while self._waiting and self.available:
                    await self._run_batch()

    async def _run_batch(self) -> None:
        self._under_way = self._next_batch()
        if not self._under_way:
            return
        self.num_commands += 1
        replies, problem = await self._attempt([call.command for call in self._under_way])
        refused: list[_Call] = []
        for call, reply in zip(self._under_way, replies, strict=False):
            if isinstance(reply, Exception):
                refused.append(call)
            else:
                call.answer(reply)
        if refused:
            # Is it Redis that can't be used, or what the command met there?
            problem = await self._probe()
        if problem:
            self._mark_away(problem)
        for call in refused:
            call.answer(Refused())
        self._under_way = []

    def _next_batch(self) -> list[_Call]:
        batch: list[_Call] = []
        num_bytes = 0
        while self._waiting and num_bytes < _MAX_BATCH_BYTES:
            call = self._waiting.popleft()
            if not call.reply.done():
                batch.append(call)
                num_bytes += sum(len(part) for part in call.command if not isinstance(part, int))
        return batch

    async def _attempt(self, commands: Sequence[Command]) -> tuple[Sequence[Any], str]:
        """Makes one round trip. Returns the replies, errors among them; without any, what is wrong with Redis."""
        pipeline = self._client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        exchange = asyncio.ensure_future(pipeline.execute(raise_on_error=False))
        try:
            for _ in range(_TIMEOUT_SLICES):
                await asyncio.wait({exchange}, timeout=self._timeout_s / _TIMEOUT_SLICES)
                if exchange.done():
                    return exchange.result(), ""
            return (), "unreachable"
        except _FAULTS as error:
            return (), _problem(error)
        finally:
            # Its connection is closed with it: a reply that comes later is nobody's.
            exchange.cancel()
            await asyncio.gather(exchange, return_exceptions=True)

    async def _probe(self) -> str:
        """Returns what is wrong with Redis, in a few words; empty if it can be used."""
        try:
            replies, problem = await self._attempt(_PROBE)
            return problem or next((_problem(reply) for reply in replies if isinstance(reply, Exception)), "")
        finally:
            self._probed.set()

    def _mark_away(self, problem: str) -> None:
        self.available, self.problem = False, problem
        self.num_failures += 1
        self._answer_none()

    def _answer_none(self) -> None:
        for call in (*self._under_way, *self._waiting):
            call.answer(None)
        self._under_way = []
        self._waiting.clear()

    async def _until_usable(self) -> None:
        """Probes until Redis can be used. A single slow reply is over at the first probe, and not worth a warning."""
        first, warned = self.problem, ""
        while problem := await self._probe():
            if not self.problem:
                self._mark_away(problem)
            self.problem = problem
            if problem != warned:
                # In words of our own: a server's message may repeat what it was sent.
                _log.warning("prefix index: Redis at %s is away: %s; going on without", self._name, problem)
                warned = problem
            if problem == _CERTIFICATE_REFUSED:
                # New connections read the CA file again, which may have been replaced.
                self._client.connection_pool.reset()  # type: ignore[no-untyped-call]
            await asyncio.sleep(_PROBE_INTERVAL_S)
        self.available, self.problem = True, ""
        if warned or not first:
            _log.info("prefix index: Redis at %s answers%s", self._name, " again" if warned else "")
        else:
            _log.debug("prefix index: Redis at %s missed a command (%s)", self._name, first)


def _problem(error: BaseException) -> str:
    text = str(error)
    for part, problem in _PROBLEM_TEXTS:
        if part in text:
            return problem
    return next(problem for kind, problem in _PROBLEMS if isinstance(error, kind))
