"""The reference preset installs under the Pod Security level `restricted`, answers, and leaves nothing behind."""

from __future__ import annotations

import pytest
from kubernetes import client

from tests.cluster.harness import pods
from tests.cluster.harness.namespaces import left_in, objects_in
from tests.cluster.harness.release import COMPONENTS, Release

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]


def test_preset_installs_passes_its_test_and_leaves_nothing(release: Release, kube: client.CoreV1Api) -> None:
    namespace = release.namespace
    before = objects_in(kube, namespace)

    release.install()
    for component in COMPONENTS:
        found = pods.of_component(kube, namespace, component)
        assert found, f"{component} has no pods"
        assert all(map(pods.is_ready, found)), component
    written = release.test()
    release.uninstall()

    assert "by the SLM" in written
    assert "over HTTP" in written
    assert left_in(kube, namespace, before) == set()
