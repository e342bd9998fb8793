"""Namespaces that tests install into: one at a time, strict about pods, and gone afterwards with all they held."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from kubernetes import client
from kubernetes.client.exceptions import ApiException

POD_SECURITY = {"pod-security.kubernetes.io/enforce": "restricted"}
"""Pods that break the level `restricted` are refused, as they would be in a cluster that is run with care."""
ANY_POD = {"pod-security.kubernetes.io/enforce": "privileged"}
"""Pods may do what their authors want, where the cluster has no rules of its own."""
GONE_TIMEOUT_S = 360.0
"""A namespace goes once every API could be asked for what it holds, and one of them may be served by a pod on a node
that was lost."""
LEFT_TIMEOUT_S = 30.0
"""What belongs to an object that is gone is collected a little later."""
MADE_BY_CLUSTER = frozenset({"serviceaccounts/default", "configmaps/kube-root-ca.crt"})
"""What controllers put into each new namespace, some time after it is made, as "kind/name"."""
MADE_TIMEOUT_S = 60.0
_POLL_S = 0.5
# Records and what follows from Services and pods: the cluster makes it and takes it away.
_UNCOUNTED = ("events", "endpoints", "endpointslices")
_CORE = "/api/v1"
_METRICS = "metrics.k8s.io"


@contextmanager
def new_namespace(
    api: client.CoreV1Api, purpose: str, *, pod_security: Mapping[str, str] = POD_SECURITY
) -> Iterator[str]:
    """A new namespace that holds what is MADE_BY_CLUSTER. Nothing of it is left in the end, volumes included.

    Args:
        api: The API server's core API.
        purpose: Becomes part of its name.
        pod_security: Labels that say which pods it admits.

    Raises:
        AssertionError: The cluster did not do its part in time.
    """
    name = f"trivium-{purpose}-{secrets.token_hex(3)}"
    api.create_namespace(client.V1Namespace(metadata=client.V1ObjectMeta(name=name, labels=dict(pod_security))))
    try:
        _await_made(api, name)
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
    """The objects of a namespace that an installation may leave, of every kind, as "kind/name"."""
    found = set()
    for root in _api_roots(api):
        for kind in _listable_kinds(api, root):
            found |= _of_kind(api, root, namespace, kind)
    return found


def left_in(api: client.CoreV1Api, namespace: str, before: set[str]) -> set[str]:
    """What a namespace goes on to hold beyond what it held before."""
    deadline = time.monotonic() + LEFT_TIMEOUT_S
    while (left := objects_in(api, namespace) - before) and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    return left


def _api_roots(api: client.CoreV1Api) -> Iterator[str]:
    """Paths of all APIs, each at the version that the server prefers, but for those of measurements."""
    yield _CORE
    for group in _get(api, "/apis")["groups"]:
        if not group["name"].endswith(_METRICS):
            yield f"/apis/{group['preferredVersion']['groupVersion']}"


def _listable_kinds(api: client.CoreV1Api, root: str) -> list[str]:
    kinds = [kind for kind in _get(api, root)["resources"] if kind["namespaced"] and "list" in kind["verbs"]]
    return [kind["name"] for kind in kinds if kind["name"] not in _UNCOUNTED]


def _of_kind(api: client.CoreV1Api, root: str, namespace: str, kind: str) -> set[str]:
    items = _get(api, f"{root}/namespaces/{namespace}/{kind}")["items"]
    return {f"{kind}/{item['metadata']['name']}" for item in items}


def _get(api: client.CoreV1Api, path: str) -> Any:
    """What the API server answers, for paths that the client has no method for."""
    server = api.api_client
    answer = server.call_api(*server.param_serialize("GET", path, auth_settings=["BearerToken"]))
    answer.read()
    return server.response_deserialize(answer, {"2XX": "object"}).data


def _await_made(api: client.CoreV1Api, name: str) -> None:
    deadline = time.monotonic() + MADE_TIMEOUT_S
    kinds = {made.partition("/")[0] for made in MADE_BY_CLUSTER}
    while missing := MADE_BY_CLUSTER.difference(*(_of_kind(api, _CORE, name, kind) for kind in kinds)):
        assert time.monotonic() < deadline, f"namespace {name} still lacks {', '.join(sorted(missing))}"
        time.sleep(_POLL_S)


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
