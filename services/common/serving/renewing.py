"""A channel whose new connections are made with new credentials.

gRPC keeps a channel's credentials, its reconnections' too, for as long as it lives. So another channel takes the new
calls once the credentials have changed; those that run stay where they are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc


class RenewingChannel(grpc.aio.Channel):
    """Behaves as one channel.

    Args:
        credentials: Of a new connection; the same object for as long as they are the same.
        connect: Opens a channel with such credentials.
    """

    def __init__(
        self,
        credentials: Callable[[], grpc.ChannelCredentials],
        connect: Callable[[grpc.ChannelCredentials], grpc.aio.Channel],
    ) -> None:
        self._read = credentials
        self._connect = connect
        self._credentials = credentials()
        self._channel = connect(self._credentials)
        self._num_calls = {self._channel: 0}
        self._closing: set[asyncio.Task[None]] = set()
        self._closed = False

    async def __aenter__(self) -> RenewingChannel:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    async def close(self, grace: float | None = None) -> None:
        """Closes it; calls that run are cancelled, after `grace` seconds if given."""
        self._closed = True
        await asyncio.gather(*(channel.close(grace) for channel in self._num_calls), *self._closing)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """The state of what a new call would use."""
        return self._current().get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Waits until the state is another one; it may be again what it was."""
        await self._current().wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """Waits until it is connected."""
        await self._current().channel_ready()

    def unary_unary(self, *arguments: Any, **options: Any) -> Any:
        """See `grpc.aio.Channel`."""
        return self._renewed("unary_unary", arguments, options)

    def unary_stream(self, *arguments: Any, **options: Any) -> Any:
        """See `grpc.aio.Channel`."""
        return self._renewed("unary_stream", arguments, options)

    def stream_unary(self, *arguments: Any, **options: Any) -> Any:
        """See `grpc.aio.Channel`."""
        return self._renewed("stream_unary", arguments, options)

    def stream_stream(self, *arguments: Any, **options: Any) -> Any:
        """See `grpc.aio.Channel`."""
        return self._renewed("stream_stream", arguments, options)

    def _renewed(self, kind: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> Callable[..., Any]:
        def start(*call_arguments: Any, **call_options: Any) -> Any:
            channel = self._current()
            call = getattr(channel, kind)(*arguments, **options)(*call_arguments, **call_options)
            self._num_calls[channel] += 1
            call.add_done_callback(lambda _call: self._ended(channel))
            return call

        return start

    def _current(self) -> grpc.aio.Channel:
        if not self._closed and (credentials := self._read()) is not self._credentials:
            old, self._credentials = self._channel, credentials
            self._channel = self._connect(credentials)
            self._num_calls[self._channel] = 0
            self._close_if_unused(old)
        return self._channel

    def _ended(self, channel: grpc.aio.Channel) -> None:
        self._num_calls[channel] -= 1
        self._close_if_unused(channel)

    def _close_if_unused(self, channel: grpc.aio.Channel) -> None:
        if channel is not self._channel and not self._num_calls[channel] and not self._closed:
            del self._num_calls[channel]
            closing = asyncio.get_running_loop().create_task(channel.close())
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)
