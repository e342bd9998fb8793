"""How much of a process the calls of its service may take before anything is known of them.

Owns the numbers, and the turns in which request messages are received. Who is refused, and how, is up to
`services.common.serving.interceptors`.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Protocol

import grpc

from services.common.errors import DeadlineExceeded, InvalidRequest

MAX_READING = 16
"""Request messages that are received and decoded at once."""

READ_TIMEOUT_S = 30.0
"""How long one of them may take to arrive. It keeps others waiting meanwhile."""

READ_BYTES_PER_S = 32 * 2**20
"""How fast messages are received over time: what calls bring may not take the processor from those that run."""


@dataclass(frozen=True, slots=True)
class CallLimits:
    """What calls of one service may take.

    Args:
        max_calls: Calls that are open at once, `ALWAYS_TAKEN` methods apart; more are refused before their message is
            received. 0 sets no limit.
        default_deadline_s: Seconds after which a call ends whose client named no deadline, unless it streams
            requests. 0 sets none.
    """

    max_calls: int = 0
    default_deadline_s: float = 0.0


class Receiver(Protocol):
    """What a message is received from: the context of its call."""

    async def read(self) -> Any:
        """Waits for the next message; `grpc.aio.EOF` after the last."""


class MessageReader:
    """Receives the one message of calls that don't stream requests, a few at once.

    The others stay where HTTP/2's flow control stops them: with their clients.

    Args:
        max_reading: Messages that are received at once.
        timeout_s: Seconds that each may take.
        bytes_per_s: After a message, the next turn begins no sooner than the bytes so far may have taken.
    """

    def __init__(
        self,
        max_reading: int = MAX_READING,
        timeout_s: float = READ_TIMEOUT_S,
        bytes_per_s: float = READ_BYTES_PER_S,
    ) -> None:
        self._turns = asyncio.Semaphore(max_reading)
        self._timeout_s = timeout_s
        self._bytes_per_s = bytes_per_s
        self._next_turn_at = 0.0

    async def read(self, context: Receiver) -> bytes:
        """Waits for a turn and receives the message.

        Not from the iterator of messages: that one keeps the last of them until a search for cycles finds it.

        Raises:
            InvalidRequest: The client sent none.
            DeadlineExceeded: It didn't arrive in time.
        """
        now = asyncio.get_running_loop().time
        async with self._turns:
            if (pause_s := self._next_turn_at - now()) > 0:
                await asyncio.sleep(pause_s)
            try:
                async with asyncio.timeout(self._timeout_s):
                    message = await context.read()
            except TimeoutError:
                raise DeadlineExceeded(f"the request message took longer than {self._timeout_s:g} s") from None
            if message is grpc.aio.EOF:
                raise InvalidRequest("the call carries no request message")
            self._next_turn_at = max(self._next_turn_at, now()) + len(message) / self._bytes_per_s
        return bytes(message)
