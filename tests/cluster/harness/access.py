"""How a test outside the cluster reaches Services and pods inside.

By their own addresses where those can be reached from here, otherwise through `kubectl port-forward`, which works
with every cluster.
"""

from __future__ import annotations

import re
import socket
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from kubernetes import client

from tests.cluster.harness.pods import await_ready, bare_pod

_PROBE_TIMEOUT_S = 1.0
_FORWARDED = re.compile(r"Forwarding from 127\.0\.0\.1:(\d+) ")
_RELAY = (Path(__file__).parents[2] / "relay.py").read_text(encoding="utf-8")
_RELAY_PORT = 8080


class Access(ABC):
    """A way into the cluster. The addresses are "host:port", and valid while the contexts are open."""

    @abstractmethod
    def to_service(self, namespace: str, name: str, port: int) -> AbstractContextManager[str]:
        """Gives the address of a Service: each connection may reach another of its pods."""

    @abstractmethod
    def to_pod(self, namespace: str, name: str, port: int) -> AbstractContextManager[str]:
        """Gives the address of one pod."""


class DirectAccess(Access):
    """Addresses of the cluster's networks are routed to from here."""

    def __init__(self, api: client.CoreV1Api) -> None:
        self._api = api

    @contextmanager
    def to_service(self, namespace: str, name: str, port: int) -> Iterator[str]:
        """See `Access`."""
        service = self._api.read_namespaced_service(name, namespace)
        assert service.spec is not None
        yield f"{service.spec.cluster_ip}:{port}"

    @contextmanager
    def to_pod(self, namespace: str, name: str, port: int) -> Iterator[str]:
        """See `Access`."""
        pod = self._api.read_namespaced_pod(name, namespace)
        assert pod.status is not None
        yield f"{pod.status.pod_ip}:{port}"


class ForwardedAccess(Access):
    """Connections go through the API server, and those to a Service through a relay inside.

    What `kubectl port-forward service/…` reaches is one pod of the Service, and ends with it.
    """

    def __init__(self, api: client.CoreV1Api, kubectl: str, relay_image: str) -> None:
        self._api = api
        self._kubectl = kubectl
        self._relay_image = relay_image

    @contextmanager
    def to_service(self, namespace: str, name: str, port: int) -> Iterator[str]:
        """See `Access`."""
        command = ["python3", "-c", _RELAY, str(_RELAY_PORT), f"{name}:{port}"]
        pod = self._api.create_namespaced_pod(namespace, bare_pod("relay-", self._relay_image, command))
        assert pod.metadata is not None
        relay = str(pod.metadata.name)
        try:
            await_ready(self._api, namespace, relay)
            with self.to_pod(namespace, relay, _RELAY_PORT) as address:
                yield address
        finally:
            self._api.delete_namespaced_pod(relay, namespace, grace_period_seconds=0)

    @contextmanager
    def to_pod(self, namespace: str, name: str, port: int) -> Iterator[str]:
        """See `Access`."""
        command = [self._kubectl, "--namespace", namespace, "port-forward", f"pod/{name}", f":{port}"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as forwarding:
            try:
                assert forwarding.stdout is not None
                line = forwarding.stdout.readline()
                found = _FORWARDED.match(line)
                assert found, f"{' '.join(command)}: {line or 'ended'}"
                yield f"127.0.0.1:{found[1]}"
            finally:
                forwarding.terminate()


def way_in(api: client.CoreV1Api, kubectl: str, relay_image: str, choice: str) -> Access:
    """Chooses a way into the cluster: "direct", "forward", or the first of them that works ("auto")."""
    if choice == "direct" or (choice == "auto" and _is_routed(api)):
        return DirectAccess(api)
    return ForwardedAccess(api, kubectl, relay_image)


def _is_routed(api: client.CoreV1Api) -> bool:
    """Whether addresses of Services can be reached from here: asks the API server's own."""
    service = api.read_namespaced_service("kubernetes", "default")
    assert service.spec is not None
    try:
        with socket.create_connection((str(service.spec.cluster_ip), 443), _PROBE_TIMEOUT_S):
            return True
    except OSError:
        return False
