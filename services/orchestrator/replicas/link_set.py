"""The links to all replicas of one service, which come and go.

Owns when a link is made and when it is dropped. Where the replicas are is known to `discovery`; what a link does, to
`link`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Generic

from services.orchestrator.replicas.discovery import Discovery
from services.orchestrator.replicas.link import CommandT, InfoT, Link, ResponseT

logger = logging.getLogger(__name__)


class LinkSet(Generic[CommandT, ResponseT, InfoT]):
    """Keeps one link to each replica of a service.

    Args:
        links: The links, for those who use them; changed here alone.
        discovery: Knows where the replicas are.
        connect: Makes the link to an address.
        interval_s: Seconds between two looks at where the replicas are.
    """

    def __init__(
        self,
        links: list[Link[CommandT, ResponseT, InfoT]],
        *,
        discovery: Discovery,
        connect: Callable[[str], Link[CommandT, ResponseT, InfoT]],
        interval_s: float,
    ) -> None:
        self._links = links
        self._discovery = discovery
        self._connect = connect
        self._interval_s = interval_s
        self._running: dict[Link[CommandT, ResponseT, InfoT], asyncio.Task[None]] = {}
        self._num_past_messages = 0

    @property
    def num_replicas(self) -> int:
        """Replicas that take new work."""
        return sum(link.available for link in self._links)

    @property
    def num_messages(self) -> int:
        """Messages sent and received, on links that were dropped as well."""
        return self._num_past_messages + sum(link.num_messages for link in self._links)

    async def run(self) -> None:
        """Follows the replicas until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                self._follow(await self._discovery.addresses(), tasks)
                await asyncio.sleep(self._interval_s)

    def _follow(self, addresses: list[str], tasks: asyncio.TaskGroup) -> None:
        for link in list(self._links):
            if link.target not in addresses and not link.retired:
                logger.info("replica %s is no longer listed", link.target)
                link.retired = True
            # A replica that is no longer listed may be draining: it keeps what it has until that is done.
            if link.retired and not (link.ready and link.num_sequences):
                self._drop(link)
        # A retired link isn't revived: whoever is listed again gets a new one, and with it what waits for a replica.
        linked = {link.target for link in self._links if not link.retired}
        for address in addresses:
            if address not in linked:
                link = self._connect(address)
                self._links.append(link)
                self._running[link] = tasks.create_task(link.run())

    def _drop(self, link: Link[CommandT, ResponseT, InfoT]) -> None:
        self._running.pop(link).cancel()
        self._links.remove(link)
        self._num_past_messages += link.num_messages
        link.close()
