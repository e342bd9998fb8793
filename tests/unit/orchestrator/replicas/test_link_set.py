from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from services.common.serving.channels import open_channel
from services.orchestrator.replicas.discovery import Discovery
from services.orchestrator.replicas.link import Link
from services.orchestrator.replicas.link_set import LinkSet
from tests.serving import until
from tests.unit.orchestrator.replicas.test_discovery import FakeResolver


class _Link(Link[Any, Any, Any]):
    """A link whose stream the test opens and ends."""

    def __init__(self, target: str) -> None:
        super().__init__(target, _Peer(), open_channel=open_channel)
        self.is_running = False
        self.stream_ended = asyncio.Event()

    async def run(self) -> None:
        self.is_running = True
        try:
            self.ready = True
            await self.stream_ended.wait()
            self.close()
        finally:
            self.is_running = False


class _Peer:
    def __init__(self) -> None:
        self.num_lost = 0

    def on_lost(self, link: Any) -> None:
        self.num_lost += 1

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} isn't expected")


class _Following:
    def __init__(self, resolver: FakeResolver) -> None:
        self.resolver = resolver
        self.made: list[_Link] = []
        self.link_set: LinkSet[Any, Any, Any] = LinkSet(
            _Peer(), discovery=Discovery(["slm:5"], resolver), connect=self._connect, interval_s=0.005
        )

    def _connect(self, address: str, _peer: Any) -> _Link:
        self.made.append(_Link(address))
        return self.made[-1]

    @property
    def targets(self) -> list[str]:
        return [link.target for link in self.link_set]

    async def looks(self) -> None:
        """Waits for two looks at where the replicas are."""
        num_calls = self.resolver.num_calls
        await until(lambda: self.resolver.num_calls > num_calls + 1, timeout_s=20)


@asynccontextmanager
async def _following(*hosts: str) -> AsyncIterator[_Following]:
    following = _Following(FakeResolver(slm=list(hosts)))
    running = asyncio.create_task(following.link_set.run())
    try:
        await until(lambda: len(following.link_set.available) == len(hosts), timeout_s=20)
        yield following
        assert not running.done()
    finally:
        running.cancel()
        await asyncio.wait({running})
    assert not any(link.is_running for link in following.made)


async def test_new_address_gets_a_link_and_known_ones_keep_theirs() -> None:
    async with _following("10.0.0.1") as following:
        following.resolver.hosts["slm"] = ["10.0.0.2", "10.0.0.1"]
        await until(lambda: len(following.link_set.available) == 2, timeout_s=20)
        assert following.targets == ["10.0.0.1:5", "10.0.0.2:5"]
        await following.looks()
        assert len(following.made) == 2


async def test_gone_address_without_sequences_is_dropped_and_its_peer_told() -> None:
    async with _following("10.0.0.1", "10.0.0.2") as following:
        gone = following.made[0]
        gone.num_messages = 7
        following.resolver.hosts["slm"] = ["10.0.0.2"]
        await until(lambda: following.targets == ["10.0.0.2:5"], timeout_s=20)
        await until(lambda: not gone.is_running, timeout_s=20)
        assert following.link_set.num_messages == 7
        assert isinstance(gone._peer, _Peer)
        assert gone._peer.num_lost == 1


@pytest.mark.parametrize("ending", ["sequences end", "stream ends"])
async def test_gone_address_with_sequences_keeps_its_stream_until_they_are_done(ending: str) -> None:
    async with _following("10.0.0.1", "10.0.0.2") as following:
        draining = following.made[0]
        draining.num_sequences = 1
        following.resolver.hosts["slm"] = ["10.0.0.2"]
        await until(lambda: draining.retired, timeout_s=20)
        await following.looks()
        assert draining.is_running
        assert (len(following.link_set.available), len(list(following.link_set))) == (1, 2)
        if ending == "sequences end":
            draining.num_sequences = 0
        else:
            draining.stream_ended.set()
        await until(lambda: following.targets == ["10.0.0.2:5"], timeout_s=20)
        assert isinstance(draining._peer, _Peer)
        assert draining._peer.num_lost == 1


async def test_address_listed_again_while_its_old_link_drains_gets_a_new_one() -> None:
    async with _following("10.0.0.1", "10.0.0.2") as following:
        old = following.made[0]
        old.num_sequences = 1
        following.resolver.hosts["slm"] = ["10.0.0.2"]
        await until(lambda: old.retired, timeout_s=20)
        following.resolver.hosts["slm"] = ["10.0.0.2", "10.0.0.1"]
        await until(lambda: len(following.link_set.available) == 2, timeout_s=20)
        assert following.targets == ["10.0.0.1:5", "10.0.0.2:5", "10.0.0.1:5"]
        old.num_sequences = 0
        await until(lambda: old not in list(following.link_set), timeout_s=20)
        assert len(following.link_set.available) == 2


async def test_failing_resolver_drops_no_link() -> None:
    async with _following("10.0.0.1") as following:
        del following.resolver.hosts["slm"]
        await following.looks()
        assert len(following.link_set.available) == 1
        assert following.made[0].is_running
