"""Namespaces that tests install into: one at a time, strict about pods, and gone afterwards with all they held."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from kubernetes import client
from kubernetes.client.exceptions import ApiException

POD_SECURITY = {"pod-security.kubernetes.io/enforce": "restricted"}
"""Pods that break the level `restricted` are refused, as they would be in a cluster that is run with care."""
GONE_TIMEOUT_S = 180.0
_POLL_S = 0.5


@contextmanager
def new_namespace(api: client.CoreV1Api, purpose: str) -> Iterator[str]:
    """A namespace with a new name, and nothing of it left in the end, volumes included."""
    name = f"trivium-{purpose}-{secrets.token_hex(3)}"
    api.create_namespace(client.V1Namespace(metadata=client.V1ObjectMeta(name=name, labels=POD_SECURITY)))
    try:
        yield name
    finally:
        api.delete_namespace(name)
        _await_gone(api, name)


def volumes_of(api: client.CoreV1Api, namespace: str) -> list[str]:
    """Names of the PersistentVolumes that claims of a namespace have, or had."""
    found = []
    for volume in api.list_persistent_volume().items:
        claim = volume.spec.claim_ref if volume.spec else None
        if volume.metadata and claim and claim.namespace == namespace:
            found.append(str(volume.metadata.name))
    return found


def objects_in(api: client.CoreV1Api, namespace: str) -> set[str]:
    """The objects of a namespace that an installation may leave, as "kind/name"."""
    listed: list[tuple[str, list[Any]]] = [
        ("pod", api.list_namespaced_pod(namespace).items),
        ("service", api.list_namespaced_service(namespace).items),
        ("secret", api.list_namespaced_secret(namespace).items),
        ("claim", api.list_namespaced_persistent_volume_claim(namespace).items),
        ("config", api.list_namespaced_config_map(namespace).items),
        ("account", api.list_namespaced_service_account(namespace).items),
    ]
    return {f"{kind}/{item.metadata.name}" for kind, items in listed for item in items}


def _await_gone(api: client.CoreV1Api, name: str) -> None:
    deadline = time.monotonic() + GONE_TIMEOUT_S
    while _exists(api, name) or volumes_of(api, name):
        assert time.monotonic() < deadline, f"namespace {name} isn't gone: {volumes_of(api, name)}"
        time.sleep(_POLL_S)


def _exists(api: client.CoreV1Api, name: str) -> bool:
    try:
        api.read_namespace(name)
    except ApiException as error:
        if error.status != 404:
            raise
        return False
    return True
