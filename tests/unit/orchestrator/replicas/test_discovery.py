from __future__ import annotations

import logging
from collections.abc import Sequence

import pytest

from services.orchestrator.replicas.discovery import Discovery, Target, resolve_host


class FakeResolver:
    """Names and their addresses; a name without an entry is unknown."""

    def __init__(self, **hosts: Sequence[str]) -> None:
        self.hosts: dict[str, Sequence[str]] = dict(hosts)
        self.num_calls = 0

    async def __call__(self, host: str) -> Sequence[str]:
        self.num_calls += 1
        if host not in self.hosts:
            raise OSError(f"unknown: {host}")
        return self.hosts[host]


@pytest.mark.parametrize(
    ("text", "target", "is_name"),
    [
        ("127.0.0.1:80", Target("127.0.0.1", 80), False),
        ("[::1]:65535", Target("::1", 65535), False),
        ("slm.trivium.svc.cluster.local.:50051", Target("slm.trivium.svc.cluster.local.", 50051), True),
        ("localhost:1", Target("localhost", 1), True),
    ],
)
def test_target_is_read(text: str, target: Target, is_name: bool) -> None:
    assert Target.parse(text) == target
    assert target.is_name == is_name


@pytest.mark.parametrize(
    "text",
    ["", "slm", "slm:", ":80", "slm:0", "slm:65536", "slm:x", "::1:80", "a b:80", "http://slm:80", "a..b:80",
     f"{'a' * 64}:80"],
)  # fmt: skip
def test_target_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="host"):
        Target.parse(text)


async def test_ip_addresses_are_taken_as_they_are_and_never_looked_up() -> None:
    resolver = FakeResolver()
    discovery = Discovery(["127.0.0.1:1", "[::1]:2", "127.0.0.1:1"], resolver)
    assert await discovery.addresses() == ["127.0.0.1:1", "[::1]:2"]
    assert resolver.num_calls == 0


async def test_name_stands_for_all_its_addresses_and_follows_them() -> None:
    resolver = FakeResolver(slm=["10.0.0.1", "10.0.0.2"])
    discovery = Discovery(["slm:5", "10.0.0.2:5", "10.0.0.9:5"], resolver)
    assert await discovery.addresses() == ["10.0.0.1:5", "10.0.0.2:5", "10.0.0.9:5"]
    resolver.hosts["slm"] = ["fd00::3", "10.0.0.2"]
    assert await discovery.addresses() == ["[fd00::3]:5", "10.0.0.2:5", "10.0.0.9:5"]


async def test_name_with_two_ports_is_looked_up_once() -> None:
    resolver = FakeResolver(slm=["10.0.0.1"])
    assert await Discovery(["slm:5", "slm:6"], resolver).addresses() == ["10.0.0.1:5", "10.0.0.1:6"]
    assert resolver.num_calls == 1


@pytest.mark.parametrize("failure", ["unknown", "empty"])
async def test_failing_resolver_keeps_what_is_known_and_is_told_of_once(
    failure: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    resolver = FakeResolver(slm=["10.0.0.1"], llm=["10.0.0.5"])
    discovery = Discovery(["slm:5", "llm:5"], resolver)
    known = await discovery.addresses()
    if failure == "unknown":
        del resolver.hosts["slm"]
    else:
        resolver.hosts["slm"] = []
    resolver.hosts["llm"] = ["10.0.0.6"]
    for _ in range(3):
        assert await discovery.addresses() == [known[0], "10.0.0.6:5"]
    assert len(caplog.records) == 1
    assert "slm" in caplog.text
    resolver.hosts["slm"] = ["10.0.0.2"]
    assert await discovery.addresses() == ["10.0.0.2:5", "10.0.0.6:5"]


async def test_name_that_is_not_known_yet_has_no_replica_until_it_is() -> None:
    resolver = FakeResolver()
    discovery = Discovery(["slm:5"], resolver)
    assert await discovery.addresses() == []
    resolver.hosts["slm"] = ["10.0.0.1"]
    assert await discovery.addresses() == ["10.0.0.1:5"]


async def test_resolve_host_of_the_system_knows_localhost_by_its_ipv4_address_alone() -> None:
    assert await resolve_host("localhost") == ["127.0.0.1"]


async def test_resolve_host_of_an_unknown_name_fails_as_the_protocol_says() -> None:
    with pytest.raises(OSError, match=r"."):
        await resolve_host("no-such-host.invalid")
