"""The reference preset installs under the Pod Security level `restricted`, answers, and leaves nothing behind."""

from __future__ import annotations

from typing import Any

import pytest
from kubernetes import client

from tests.cluster import pods
from tests.cluster.release import Release

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

COMPONENTS = ("slm", "router", "llm", "orchestrator", "redis")


def test_preset_installs_passes_its_test_and_leaves_nothing(release: Release, kube: client.CoreV1Api) -> None:
    namespace = release.namespace
    before = left_in(kube, namespace)

    release.install()
    assert all(pods.is_ready(pod) for item in COMPONENTS for pod in pods.of_component(kube, namespace, item))
    written = release.test()
    release.uninstall()

    assert "by the SLM" in written
    assert left_in(kube, namespace) == before


def left_in(api: client.CoreV1Api, namespace: str) -> set[str]:
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
