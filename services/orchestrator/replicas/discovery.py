"""Finds the replicas behind the addresses of a service.

Owns what an address means: with an IP address it is one replica, with a name it is as many as the name has addresses.
In Kubernetes that is a headless Service, whose name has the address of each ready pod. What is found is looked up
again whenever it is asked for.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import re
import socket
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass

logger = logging.getLogger(__name__)

Resolve = Callable[[str], Awaitable[Sequence[str]]]
"""Looks up the IP addresses of a host name. Raises OSError where that fails."""

_BRACKETED = re.compile(r"\[([0-9A-Fa-f:.]+)\]:(\d{1,5})")
_PLAIN = re.compile(r"([\w.-]+):(\d{1,5})", re.ASCII)
_MAX_LABEL_LEN = 63


@dataclass(frozen=True, slots=True)
class Target:
    """Where replicas of a service are.

    Args:
        host: A name or an IP address.
        port: Their TCP port.
    """

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Target:
        """Reads "host:port", or "[address]:port" with an IPv6 address.

        Raises:
            ValueError: It is neither.
        """
        match = _BRACKETED.fullmatch(text) or _PLAIN.fullmatch(text)
        if match is None or not 0 < int(match[2]) < 2**16:
            raise ValueError(f"{text!r} isn't host:port, as slm.trivium.svc:50051 is")
        target = cls(match[1], int(match[2]))
        labels = target.host.removesuffix(".").split(".")
        if target.is_name and not all(0 < len(label) <= _MAX_LABEL_LEN for label in labels):
            raise ValueError(f"{target.host!r} isn't a host name")
        return target

    @property
    def is_name(self) -> bool:
        """Whether the host has to be looked up."""
        try:
            ipaddress.ip_address(self.host)
        except ValueError:
            return True
        return False

    def at(self, host: str) -> str:
        """The address of a replica, for a gRPC channel."""
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"


async def resolve_host(host: str) -> list[str]:
    """Asks the system's resolver for the IP addresses of a name.

    Only the IPv4 ones where there are any: a replica that has both would be taken for two.

    Raises:
        OSError: The name is unknown, or nobody answers.
    """
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    by_family: dict[int, dict[str, None]] = {socket.AF_INET: {}, socket.AF_INET6: {}}
    for family, _, _, _, address in found:
        by_family.setdefault(family, {})[str(address[0])] = None
    return list(by_family[socket.AF_INET] or by_family[socket.AF_INET6])


class Discovery:
    """Knows where the replicas of one service are.

    Args:
        targets: The service's addresses, as `Target.parse` reads them.
        resolve: Looks names up.

    Raises:
        ValueError: A target can't be read.
    """

    def __init__(self, targets: Collection[str], resolve: Resolve = resolve_host) -> None:
        self._targets = [Target.parse(target) for target in targets]
        self._resolve = resolve
        self._found: dict[str, Sequence[str]] = {}
        self._failures: dict[str, str] = {}

    async def addresses(self) -> list[str]:
        """Looks all names up, and returns the addresses of all replicas, each once.

        A name that can't be looked up, or that has no address just now, keeps those that it had: replicas that are
        gone are noticed by their streams, while a resolver that is gone must not take replicas away.
        """
        names = {target.host for target in self._targets if target.is_name}
        await asyncio.gather(*(self._look_up(name) for name in names))
        addresses: dict[str, None] = {}
        for target in self._targets:
            hosts = self._found.get(target.host, ()) if target.is_name else (target.host,)
            addresses.update(dict.fromkeys(target.at(host) for host in hosts))
        return list(addresses)

    async def _look_up(self, name: str) -> None:
        try:
            hosts, failure = await self._resolve(name), "it has no address"
        except OSError as error:
            hosts, failure = (), str(error)
        if hosts:
            self._found[name] = hosts
            self._failures.pop(name, None)
        elif self._failures.get(name) != failure:
            self._failures[name] = failure
            logger.warning("can't look up %s: %s", name, failure)
