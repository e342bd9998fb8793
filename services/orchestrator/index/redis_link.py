"""The connection to a Redis that may be gone or slow.

The only importer of redis. Owns the time limit and the circuit breaker; knows no keys but the one it probes with.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

_PROBE_KEY = "trivium:1:probe"
_PROBE_INTERVAL_S = 0.5
# The event loop is busier with a command than Redis is; more connections would only take longer to open.
_MAX_CONNECTIONS = 4

Command = tuple[bytes | str | int, ...]

_log = logging.getLogger(__name__)


class RedisLink:
    """Runs commands against Redis: one bounded attempt each, and none while Redis is known to be away.

    The first failure opens the circuit: commands return at once, and a background task probes until Redis answers.

    Args:
        url: `redis://`, `rediss://` or `unix://`.
        timeout_s: Longest that a command waits.
        password: For a URL that holds none.

    Attributes:
        available: True while Redis answers.
        num_commands: Round trips tried since the start, probes not counted.
        num_failures: Times that Redis was found unavailable, if only for one command.

    Raises:
        ValueError: The URL can't be read. The message doesn't repeat it, because it may hold a password.
    """

    def __init__(self, url: str, timeout_s: float, password: str | None = None) -> None:
        try:
            pool = BlockingConnectionPool.from_url(
                url,
                password=password,
                max_connections=_MAX_CONNECTIONS,
                timeout=timeout_s,
                socket_connect_timeout=timeout_s,
                # The whole command is bounded below.
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
        self._probing: asyncio.Task[None] | None = None
        self.available = False
        self.num_commands = 0
        self.num_failures = 0

    async def start(self) -> None:
        """Connects, waiting at most the timeout; a Redis that isn't there yet is found when it comes."""
        error = await self._probe()
        if error is None:
            self.available = True
            _log.info("prefix index: Redis at %s answers", self._name)
        else:
            self._mark_away(error)

    async def close(self) -> None:
        """Disconnects and stops probing."""
        self.available = False
        if self._probing:
            self._probing.cancel()
            await asyncio.gather(self._probing, return_exceptions=True)
        await self._client.aclose()

    async def run(self, *command: bytes | str | int) -> Any:
        """Runs a command.

        Returns:
            The reply, with the types that redis-py gives it; None without one.
        """
        return await self._guarded(lambda: self._client.execute_command(*command))  # type: ignore[no-untyped-call]

    async def run_all(self, commands: Sequence[Command]) -> list[Any] | None:
        """Runs commands in one round trip, which counts as one. Returns their replies; None without them."""
        pipeline = self._client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        replies: list[Any] | None = await self._guarded(pipeline.execute)
        return replies

    async def _guarded(self, call: Callable[[], Awaitable[Any]]) -> Any:
        if not self.available:
            return None
        self.num_commands += 1
        reply, error = await self._attempt(call)
        if error and self.available:
            self._mark_away(error)
        return reply

    async def _attempt(self, call: Callable[[], Awaitable[Any]]) -> tuple[Any, Exception | None]:
        try:
            async with asyncio.timeout(self._timeout_s):
                return await call(), None
        except (RedisError, OSError, TimeoutError) as error:
            return None, error

    async def _probe(self) -> Exception | None:
        # A write, since a Redis that only reads or is full is of no use here.
        _, error = await self._attempt(lambda: self._client.set(_PROBE_KEY, 1, ex=60))
        return error

    def _mark_away(self, error: Exception) -> None:
        self.available = False
        self.num_failures += 1
        self._probing = asyncio.create_task(self._await_return(error))

    async def _await_return(self, error: Exception) -> None:
        """Probes until Redis answers. A single slow reply is over at the first probe, and not worth a warning."""
        warned = False
        while (probe_error := await self._probe()) is not None:
            if not warned:
                # The kind only: a server's message may repeat what it was sent.
                kind = type(probe_error).__name__
                _log.warning("prefix index: Redis at %s is away (%s); going on without", self._name, kind)
                warned = True
            await asyncio.sleep(_PROBE_INTERVAL_S)
        self.available = True
        if warned:
            _log.info("prefix index: Redis at %s answers again", self._name)
        else:
            _log.debug("prefix index: Redis at %s missed a command (%s)", self._name, type(error).__name__)
