"""The links to all replicas of one service, which come and go.

Owns when a link is made and when it is dropped. Where the replicas are is known to `discovery`; what a link does, to
`link`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from typing import Generic

from services.orchestrator.replicas.discovery import Discovery
from services.orchestrator.replicas.link import CommandT, InfoT, Link, LinkPeer, ResponseT

logger = logging.getLogger(__name__)


class LinkSet(Generic[CommandT, ResponseT, InfoT]):
    """Keeps one link to each replica of a service.

    Args:
        peer: What the links carry.
        discovery: Knows where the replicas are.
        connect: Makes the link to an address.
        interval_s: Seconds between two looks at where the replicas are.
    """

    def __init__(
        self,
        peer: LinkPeer[CommandT, ResponseT, InfoT],
        *,
        discovery: Discovery,
        connect: Callable[
            [str, LinkPeer[CommandT, ResponseT, InfoT]],
            Link[CommandT, ResponseT, InfoT],
        ],
        interval_s: float,
    ) -> None:
        self._peer = peer
        self._discovery = discovery
        self._connect = connect
        self._interval_s = interval_s
        self._links: dict[Link[CommandT, ResponseT, InfoT], asyncio.Task[None]] = {}
        self._num_past_messages = 0
        self._num_past_stalls = 0

    def __iter__(self) -> Iterator[Link[CommandT, ResponseT, InfoT]]:
        """The links that there are now; the loop may add and drop some."""
        return iter(list(self._links))

    @property
    def available(self) -> list[Link[CommandT, ResponseT, InfoT]]:
        """Links to the replicas that take new work."""
        return [link for link in self._links if link.available]

    @property
    def num_messages(self) -> int:
        """Messages sent and received, on links that were dropped as well."""
        return self._num_past_messages + sum(link.num_messages for link in self._links)

    @property
    def num_stalls(self) -> int:
        """Times that a replica was given up for its silence."""
        return self._num_past_stalls + sum(link.num_stalls for link in self._links)

    async def run(self) -> None:
        """Follows the replicas until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                self._follow(await self._discovery.addresses(), tasks)
                await asyncio.sleep(self._interval_s)

    def _follow(self, addresses: list[str], tasks: asyncio.TaskGroup) -> None:
        for link in self:
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
                link = self._connect(address, self._peer)
                self._links[link] = tasks.create_task(link.run())

    def _drop(self, link: Link[CommandT, ResponseT, InfoT]) -> None:
        self._links.pop(link).cancel()
        self._num_past_messages += link.num_messages
        self._num_past_stalls += link.num_stalls
        link.close()
