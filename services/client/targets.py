"""The orchestrators that a client knows, and which of them takes the next call.

Owns the channels, and finding out whether somebody listens. A target may stand for several orchestrators: "dns:///"
with a name, a name with several addresses, or an "ipv4:" list; gRPC spreads the calls over them.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Protocol

import grpc
from trivium.v1 import orchestrator_pb2_grpc

_DNS = "dns:///"
_RENEWED_AFTER_S = 2.0
_LONGEST_CALL_S = 3600.0


class OpenChannel(Protocol):
    """Opens channels, as `services.common.serving.channels.open_channel` does."""

    def __call__(self, target: str, /, *, keepalive_s: float, spread: bool) -> grpc.aio.Channel:
        """Opens a channel to a target, whose calls are spread over all of its addresses."""


class Target:
    """One target and its channel.

    Args:
        name: Of the target.
        channel: To it.
    """

    def __init__(self, name: str, channel: grpc.aio.Channel) -> None:
        self.name = name
        self.use(channel)

    def use(self, channel: grpc.aio.Channel) -> None:
        """Makes new calls on this channel."""
        self.channel = channel
        self.in_use_since = time.monotonic()
        self.stub: orchestrator_pb2_grpc.OrchestratorServiceAsyncStub = orchestrator_pb2_grpc.OrchestratorServiceStub(
            channel
        )

    @property
    def is_connected(self) -> bool:
        """Whether a call would leave at once. If not, it begins to connect."""
        return self.channel.get_state(try_to_connect=True) is grpc.ChannelConnectivity.READY

    async def connect(self) -> bool:
        """Waits until it is known whether somebody listens."""
        settled = (grpc.ChannelConnectivity.READY, grpc.ChannelConnectivity.TRANSIENT_FAILURE)
        while (state := self.channel.get_state(try_to_connect=True)) not in settled:
            await self.channel.wait_for_state_change(state)
        return state is grpc.ChannelConnectivity.READY


class Targets:
    """All targets of a client.

    Args:
        names: At least one.
        open_channel: Opens their channels.
        keepalive_s: Seconds between pings on a quiet connection.
    """

    def __init__(self, names: Sequence[str], open_channel: OpenChannel, keepalive_s: float) -> None:
        self._open_channel = open_channel
        self._keepalive_s = keepalive_s
        self._targets = [Target(name, self._open(name)) for name in names]
        self._turn = itertools.count()
        self._former: dict[grpc.aio.Channel, asyncio.Task[None]] = {}

    def __str__(self) -> str:
        return ", ".join(target.name for target in self._targets)

    async def close(self) -> None:
        """Closes all connections; their calls end."""
        for closing in self._former.values():
            closing.cancel()
        await asyncio.gather(*self._former.values(), return_exceptions=True)
        for channel in (*self._former, *(target.channel for target in self._targets)):
            await channel.close()

    async def pick(self, avoided: Target | None = None) -> Target | None:
        """Waits for a target that somebody listens at; None if there is none. They take turns.

        Args:
            avoided: Comes last.
        """
        first = next(self._turn) % len(self._targets)
        in_turn = self._targets[first:] + self._targets[:first]
        in_turn.sort(key=lambda target: target is avoided)
        connected = next((target for target in in_turn if target.is_connected), None)
        # One that has just broken may not know yet.
        if connected is not None and connected is not avoided:
            return connected
        waiting = [asyncio.create_task(self._connected(target)) for target in in_turn if target is not connected]
        try:
            for found in asyncio.as_completed(waiting):
                if (target := await found) is not None and target is not avoided:
                    return target
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
        return avoided if avoided is not None and avoided.is_connected else None

    def renew(self, target: Target) -> None:
        """Goes on with a new channel to a target. Calls that run stay where they are."""
        former = target.channel
        target.use(self._open(target.name))
        self._former[former] = asyncio.create_task(self._close(former))

    async def _connected(self, target: Target) -> Target | None:
        if await target.connect():
            return target
        # A channel whose name had no address waits longer and longer before it looks again, up to two minutes.
        if time.monotonic() - target.in_use_since > _RENEWED_AFTER_S:
            self.renew(target)
        return None

    async def _close(self, former: grpc.aio.Channel) -> None:
        # Somebody may be about to look at its state.
        await asyncio.sleep(_RENEWED_AFTER_S)
        await former.close(_LONGEST_CALL_S)
        del self._former[former]

    async def every_one(self, stack: AsyncExitStack) -> list[Target]:
        """A target for each single orchestrator that there is.

        Args:
            stack: Closes what had to be opened for that.
        """
        found = []
        for target in self._targets:
            addresses = await _addresses(target.name)
            if len(addresses) < 2:
                found.append(target)
            else:
                for address in addresses:
                    found.append(Target(address, await stack.enter_async_context(self._open(address))))
        return found

    def _open(self, name: str) -> grpc.aio.Channel:
        return self._open_channel(name, keepalive_s=self._keepalive_s, spread=True)


async def _addresses(name: str) -> list[str]:
    """The addresses that a target stands for, as targets; none where only gRPC knows how to find out."""
    scheme, colon, rest = name.partition(":")
    if colon and scheme in ("ipv4", "ipv6"):
        return [f"{scheme}:{address}" for address in rest.split(",")]
    host, colon, port = name.removeprefix(_DNS).rpartition(":")
    if not colon or "/" in host or not port.isdecimal():
        return []
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
    except OSError:
        return []
    hosts = dict.fromkeys(str(address[0]) for *_, address in found)
    return [f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host in hosts]
