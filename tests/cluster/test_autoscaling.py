"""Load on one model scales that model alone, up and down again, and no stream notices."""

from __future__ import annotations

from pathlib import Path

import pytest
from kubernetes import client
from rich.progress import Progress

from tests.cluster.autoscaling import check, measure, prometheus_service, references
from tests.cluster.harness.access import Access
from tests.cluster.harness.release import Release
from tests.integration.harness.completions import tell

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(2400)]


def test_load_on_one_model_scales_it_alone_and_no_stream_fails(
    request: pytest.FixtureRequest, kube: client.CoreV1Api, release: Release, access: Access, tmp_path: Path
) -> None:
    groups = {group.name for group in client.ApisApi().get_api_versions().groups}
    if "keda.sh" not in groups:
        pytest.skip("the cluster has no KEDA")
    namespace, name, port = prometheus_service(request.config.getoption("--prometheus"))
    services = {
        service.metadata.name for service in kube.list_namespaced_service(namespace).items if service.metadata
    }
    if name not in services:
        pytest.skip(f"the cluster has no Prometheus at {namespace}/{name}: --prometheus names another")

    with Progress(disable=True) as show:
        record = measure(release, access, (namespace, name, port), references(), show)

    record.save(tmp_path / "autoscaling")
    tell("streams", record.num_streams)
    tell("handed over", record.failovers)
    check(record)
