"""One long-lived bidirectional stream to one replica.

Owns the connection: it is opened, checked, kept busy, watched, and opened again after a loss. Owns what is known of
the replica's load, too. What the messages mean is up to the `LinkPeer` that it is made for.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar, cast

import grpc

from services.common.errors import TriviumError
from services.orchestrator.replicas.stall import StallWatch

logger = logging.getLogger(__name__)

CommandT = TypeVar("CommandT")
ResponseT = TypeVar("ResponseT")
InfoT = TypeVar("InfoT")

OpenChannel = Callable[[str], grpc.aio.Channel]
"""Opens a channel to an address, "host:port"."""

_DESCRIBE_TIMEOUT_S = 5.0
_BACKOFF_S = (0.1, 0.2, 0.5, 1.0)
# A replica that has nothing to do for this orchestrator reports nothing: what it said last is forgotten.
_REPORT_LIFETIME_S = 2.0
# A replica that fell silent over its work gets new work only if there is no other.
_SUSPICION_S = 30.0


class LinkPeer(Protocol[CommandT, ResponseT, InfoT]):
    """What a link carries, and who is told of it. All calls come from the event loop, and must not block."""

    async def describe(self, channel: grpc.aio.Channel) -> InfoT:
        """Asks the replica what it is."""

    def open(self, channel: grpc.aio.Channel) -> grpc.aio.StreamStreamCall[Any, ResponseT]:
        """Opens the stream."""

    def pack(self, commands: Sequence[CommandT]) -> Sequence[Any]:
        """Turns all commands that wait into messages, usually one."""

    async def check(self, info: InfoT) -> None:
        """Checks that the replica belongs here; may wait for what that depends on.

        Raises:
            TriviumError: It doesn't; the connection is closed, and tried again later.
        """

    def on_ready(self, link: Link[CommandT, ResponseT, InfoT], info: InfoT) -> None:
        """The stream is open."""

    def on_response(self, link: Link[CommandT, ResponseT, InfoT], response: ResponseT) -> None:
        """A message arrived.

        Raises:
            TriviumError: It breaks the contract; the stream is given up, and opened again.
        """

    def on_lost(self, link: Link[CommandT, ResponseT, InfoT]) -> None:
        """The stream that `on_ready` told of is gone, with all that was under way on it."""


class Link(Generic[CommandT, ResponseT, InfoT]):
    """Keeps one stream to one replica.

    Args:
        target: The replica's address, "host:port".
        peer: What the stream carries.
        open_channel: Opens the connection.
        stall_limit_s: Silence of a replica that owes an answer is no stall before this, in seconds.
        clock: Tells the time in seconds; never goes back.
    """

    def __init__(
        self,
        target: str,
        peer: LinkPeer[CommandT, ResponseT, InfoT],
        *,
        open_channel: OpenChannel,
        stall_limit_s: float = math.inf,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.target = target
        self.replica_id = ""
        """Name of the replica that is connected, or was last."""
        self.context_len = 0
        """Longest sequence that it takes, in tokens; of a model alone, and 0 before it was first connected."""
        self.ready = False
        self.draining = False
        """The replica takes nothing new; what it has goes on."""
        self.retired = False
        """Nobody lists the replica any more: it gets nothing new, and no other stream once this one has ended."""
        self.num_sequences = 0
        """Sequences of this orchestrator that the replica serves; rows, if it is a router."""
        self.num_messages = 0
        self.num_stalls = 0
        """Times that the replica was given up, since it owed an answer and was silent."""
        self._peer = peer
        self._open_channel = open_channel
        self._clock = clock
        self._watch = StallWatch(stall_limit_s)
        self._silence: asyncio.Future[str] | None = None
        self._after_stall = False
        self._suspect_until = -math.inf
        self._reported_load = 0
        self._reported_at = -math.inf
        self._commands: list[CommandT] = []
        self._commands_wait = asyncio.Event()

    @property
    def available(self) -> bool:
        """Whether the replica is there and takes new work."""
        return self.ready and not self.draining and not self.retired

    @property
    def suspect(self) -> bool:
        """Whether it fell silent over its work not long ago."""
        return self._clock() < self._suspect_until

    @property
    def load(self) -> int:
        """What it does for this orchestrator, and what it reported of others and of its queue, unless that is old."""
        is_fresh = self._clock() < self._reported_at + _REPORT_LIFETIME_S
        return self.num_sequences + (self._reported_load if is_fresh else 0)

    def report(self, *, num_others: int, num_waiting: int = 0) -> None:
        """Notes what the replica said of its load.

        Args:
            num_others: Sequences, or rows, of other streams.
            num_waiting: Sequences of any stream that had no room in its last step. They count twice.
        """
        self._reported_load = num_others + num_waiting
        self._reported_at = self._clock()

    def close(self) -> None:
        """Tells the peer that the stream is gone, if there is one. For whoever cancels `run`."""
        if self.ready:
            self.ready = False
            self._peer.on_lost(self)

    def send(self, command: CommandT) -> None:
        """Queues a command. Commands that are queued before the stream is free again travel together."""
        self._commands.append(command)
        self._commands_wait.set()

    def tick(self, elapsed_s: float, *, is_due: bool) -> None:
        """Takes note of the time, and gives the stream up where the replica is silent for too long.

        Args:
            elapsed_s: Seconds since the last call.
            is_due: Whether the replica owes an answer.
        """
        limit_s = self._watch.limit_s
        silence = self._silence
        if self._watch.tick(elapsed_s, is_due=is_due) and silence is not None and not silence.done():
            self.num_stalls += 1
            self._after_stall = True
            self._suspect_until = self._clock() + _SUSPICION_S
            silence.set_result(f"silent for {limit_s:.1f} s, although it owes an answer")

    async def run(self) -> None:
        """Keeps the stream open until cancelled, or until it ends after nobody lists the replica any more."""
        num_failures, last_reason = 0, ""
        while not self.retired:
            reason = await self._attempt()
            if self.ready:
                num_failures = 0
            elif self._after_stall:
                self._watch.was_gone()
                self._after_stall = False
            self.close()
            if reason != last_reason:
                logger.warning("link to %s: %s", self.target, reason)
            last_reason = reason
            await asyncio.sleep(_BACKOFF_S[min(num_failures, len(_BACKOFF_S) - 1)])
            num_failures += 1

    async def _attempt(self) -> str:
        """Returns why the stream ended. A defect costs the stream, and not what else runs in this process."""
        attempt = asyncio.create_task(self._connect_and_serve())
        try:
            await asyncio.wait({attempt})
        finally:
            if not attempt.done():
                attempt.cancel()
                await asyncio.wait({attempt})
        error = attempt.exception()
        if error is None:
            return attempt.result()
        logger.error("link to %s: a defect", self.target, exc_info=error)
        return f"a defect: {type(error).__name__}"

    async def _connect_and_serve(self) -> str:
        """Returns why the stream ended."""
        channel = self._open_channel(self.target)
        try:
            async with asyncio.timeout(_DESCRIBE_TIMEOUT_S):
                info = await self._peer.describe(channel)
            await self._peer.check(info)
            call = self._peer.open(channel)
            self._begin()
            self._peer.on_ready(self, info)
            logger.info("link to %s: ready", self.target)
            return await self._serve(call)
        except grpc.aio.AioRpcError as error:
            return f"{error.code().name}: {error.details()}"
        except TimeoutError:
            return f"no answer within {_DESCRIBE_TIMEOUT_S} s"
        except TriviumError as error:
            return str(error)
        finally:
            await channel.close()

    def _begin(self) -> None:
        self._commands.clear()
        self.draining = False
        self.num_sequences = 0
        self._reported_at = -math.inf
        self._watch.begin()
        if self._after_stall:
            self._watch.was_alive()
            self._after_stall = False
        self._silence = asyncio.get_running_loop().create_future()
        self.ready = True

    async def _serve(self, call: grpc.aio.StreamStreamCall[Any, ResponseT]) -> str:
        """Returns why the stream ended. A defect in writing is raised: a stream that hangs would tell nobody."""
        assert self._silence is not None, "set when the stream was opened"
        reading = asyncio.create_task(self._read(call))
        writing = asyncio.create_task(self._write(call))
        ends: set[asyncio.Future[Any]] = {reading, writing, self._silence}
        try:
            while not (reading.done() or self._silence.done()):
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
                if writing in ends and writing.done():
                    # The reader sees the same loss, and reports it.
                    ends.remove(writing)
                    writing.result()
            return reading.result() if reading.done() else self._silence.result()
        finally:
            for task in (reading, writing):
                task.cancel()
            call.cancel()
            await asyncio.wait({reading, writing})

    async def _read(self, call: grpc.aio.StreamStreamCall[Any, ResponseT]) -> str:
        try:
            while (response := await call.read()) is not grpc.aio.EOF:
                self.num_messages += 1
                self._watch.heard()
                self._peer.on_response(self, cast(ResponseT, response))
            return f"{(await call.code()).name}: {await call.details()}"
        except grpc.aio.AioRpcError as error:
            return f"{error.code().name}: {error.details()}"
        except TriviumError as error:
            return str(error)

    async def _write(self, call: grpc.aio.StreamStreamCall[Any, ResponseT]) -> None:
        while True:
            await self._commands_wait.wait()
            self._commands_wait.clear()
            commands, self._commands = self._commands, []
            for message in self._peer.pack(commands):
                self.num_messages += 1
                try:
                    await call.write(message)
                except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                    return
