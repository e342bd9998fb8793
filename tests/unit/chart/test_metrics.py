"""templates/metrics: how Prometheus finds the pods."""

from __future__ import annotations

import pytest

from tests.unit.chart.harness.helm import (
    CHART,
    PROMETHEUS_OPERATOR,
    Helm,
    Manifest,
    container,
    named,
    of_kind,
    values,
)

COMPONENTS = ("slm", "router", "llm", "orchestrator", "gateway")


def _annotations(manifests: list[Manifest], component: str) -> dict[str, str]:
    metadata = named(manifests, "Deployment", component)["spec"]["template"]["metadata"]
    found: dict[str, str] = metadata["annotations"]
    return {key: value for key, value in found.items() if key.startswith("prometheus.io/")}


@pytest.mark.parametrize("component", COMPONENTS)
def test_annotations_name_the_port(helm: Helm, component: str) -> None:
    manifests = helm.render(values("metrics.enabled=true,metrics.port=9999"))
    assert _annotations(manifests, component) == {
        "prometheus.io/scrape": "true",
        # The gateway's are where the rest of its HTTP is.
        "prometheus.io/port": "8000" if component == "gateway" else "9999",
        "prometheus.io/path": "/metrics",
    }


@pytest.mark.parametrize("setting", ["metrics.annotations=false", "metrics.enabled=false"])
def test_annotations_can_be_left_out(helm: Helm, setting: str) -> None:
    manifests = helm.render(values("metrics.enabled=true", setting))
    assert all(_annotations(manifests, component) == {} for component in COMPONENTS)


def test_labels_of_the_pod_monitor_come_before_common_ones(helm: Helm) -> None:
    text = "{commonLabels: {team: a}, metrics: {podMonitor: {enabled: true, labels: {team: b}}}}"
    rendered = helm.run(
        "template", "demo", str(CHART), "--values", "-", "--api-versions", PROMETHEUS_OPERATOR,
        "--show-only", "templates/metrics/podmonitor.yaml", stdin=text,
    )  # fmt: skip
    assert [line.strip() for line in rendered.splitlines() if "team:" in line] == ["team: b"]


def test_pod_monitor_finds_every_service_by_its_port_name(helm: Helm) -> None:
    text = "metrics: {enabled: true, podMonitor: {enabled: true, labels: {release: prom}, interval: 5s}}"
    manifests = helm.render(values(text=text, apis=(PROMETHEUS_OPERATOR,)))
    [monitor] = of_kind(manifests, "PodMonitor")
    assert monitor["metadata"]["labels"]["release"] == "prom"
    endpoints = monitor["spec"]["podMetricsEndpoints"]
    assert endpoints == [{"port": port, "path": "/metrics", "interval": "5s"} for port in ("metrics", "http")]
    wanted = monitor["spec"]["selector"]["matchLabels"].items()
    for component in COMPONENTS:
        assert wanted <= named(manifests, "Deployment", component)["spec"]["template"]["metadata"]["labels"].items()
        ports = [item["name"] for item in container(manifests, component)["ports"]]
        assert len({"metrics", "http"}.intersection(ports)) == 1
