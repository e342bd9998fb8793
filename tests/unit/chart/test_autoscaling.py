"""templates/*/autoscaler.yaml: what scales a component, by which demand, and how slowly it shrinks."""

from __future__ import annotations

import re

import pytest

from tests.unit.chart.harness.helm import CHART, KEDA, PRESETS, Helm, Manifest, Values, named, of_kind, values

COMPONENTS = ("slm", "router", "llm", "orchestrator", "gateway")
NUM_GAUGES = {"gateway": 1}
"""That demand is made of: two, unless what runs and what waits are counted together."""


def _keda(component: str, *settings: str) -> Values:
    return values(
        f"{component}.autoscaling.kind=keda,metrics.enabled=true",
        "autoscaling.prometheusAddress=http://prometheus.monitoring:9090",
        *settings,
        apis=(KEDA,),
    )


def _trigger(manifests: list[Manifest], component: str) -> Manifest:
    [trigger] = named(manifests, "ScaledObject", component)["spec"]["triggers"]
    found: Manifest = trigger
    return found


def _down(behavior: Manifest) -> tuple[int, list[Manifest]]:
    return behavior["scaleDown"]["stabilizationWindowSeconds"], behavior["scaleDown"]["policies"]


@pytest.mark.parametrize("component", COMPONENTS)
def test_none_keeps_the_replicas(helm: Helm, component: str) -> None:
    manifests = helm.render(values(f"{component}.replicas=3"))
    assert named(manifests, "Deployment", component)["spec"]["replicas"] == 3
    assert of_kind(manifests, "ScaledObject") == of_kind(manifests, "HorizontalPodAutoscaler") == []


@pytest.mark.parametrize("component", COMPONENTS)
def test_keda_scales_the_deployment_alone_and_owns_its_replicas(helm: Helm, component: str) -> None:
    manifests = helm.render(_keda(component))
    [scaled] = of_kind(manifests, "ScaledObject")
    assert scaled["spec"]["scaleTargetRef"] == {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "name": f"demo-trivium-{component}",
    }
    assert "replicas" not in named(manifests, "Deployment", component)["spec"]
    assert of_kind(manifests, "HorizontalPodAutoscaler") == []


@pytest.mark.parametrize(
    ("component", "capacity", "threshold"),
    [
        ("slm", "settings.maxBatchSize=64", "45"),
        ("llm", "settings.maxBatchSize=10", "7"),
        ("router", "settings.maxBatchRows=1000", "700"),
        ("orchestrator", "settings.maxActiveRequests=1", "1"),
        ("gateway", "autoscaling.requestsPerReplica=100", "70"),
    ],
)
def test_keda_target_is_the_occupied_share_of_a_replica(
    helm: Helm, component: str, capacity: str, threshold: str
) -> None:
    trigger = _trigger(helm.render(_keda(component, f"{component}.{capacity}")), component)
    assert trigger["metricType"] == "AverageValue"
    assert trigger["metadata"]["threshold"] == threshold


@pytest.mark.parametrize("component", COMPONENTS)
def test_keda_demand_is_of_this_component_in_this_release(helm: Helm, component: str) -> None:
    query = _trigger(helm.render(_keda(component, "autoscaling.averageWindow=30s")), component)["metadata"]["query"]
    metrics = [part for part in query.split(" + ") if f"(trivium_{component}_" in part]
    assert len(metrics) == NUM_GAUGES.get(component, 2), query
    assert all(f'{{namespace="routing", pod=~"demo-trivium-{component}-.*"}}[30s]' in part for part in metrics)
    assert all(part.endswith(" or vector(0))") for part in metrics)


@pytest.mark.parametrize("component", COMPONENTS)
def test_keda_demand_is_made_of_gauges_that_the_services_have(helm: Helm, component: str) -> None:
    query = _trigger(helm.render(_keda(component)), component)["metadata"]["query"]
    names = re.findall(r"trivium_\w+", query)
    page = (CHART / "METRICS.md").read_text(encoding="utf-8")
    assert len(names) == NUM_GAUGES.get(component, 2)
    assert all(f"| `{name}` | gauge |" in page for name in names)


def test_keda_without_prometheus_keeps_what_is_there(helm: Helm) -> None:
    spec = named(helm.render(_keda("llm", "llm.autoscaling.minReplicas=2")), "ScaledObject", "llm")["spec"]
    assert spec["fallback"] == {"failureThreshold": 3, "replicas": 2, "behavior": "currentReplicasIfHigher"}


@pytest.mark.parametrize("component", COMPONENTS)
def test_hpa_scales_by_cpu(helm: Helm, component: str) -> None:
    manifests = helm.render(values(f"{component}.autoscaling.kind=hpa,{component}.autoscaling.targetCpuPercent=55"))
    spec = named(manifests, "HorizontalPodAutoscaler", component)["spec"]
    [metric] = spec["metrics"]
    assert metric["resource"] == {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 55}}
    assert "replicas" not in named(manifests, "Deployment", component)["spec"]


@pytest.mark.parametrize(
    ("drain_s", "asked_s", "window_s", "period_s"),
    [(30, 300, 300, 48), (30, 0, 48, 48), (900, 300, 918, 918)],
)
@pytest.mark.parametrize("kind", ["keda", "hpa"])
def test_next_pod_goes_only_after_one_could_drain(
    helm: Helm, kind: str, drain_s: int, asked_s: int, window_s: int, period_s: int
) -> None:
    settings = (
        f"llm.autoscaling.kind={kind}",
        f"llm.settings.drainTimeoutS={drain_s},llm.autoscaling.scaleDownWindowS={asked_s}",
    )
    manifests = helm.render(_keda("llm", *settings) if kind == "keda" else values(*settings))
    if kind == "keda":
        spec = named(manifests, "ScaledObject", "llm")["spec"]
        behavior = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    else:
        behavior = named(manifests, "HorizontalPodAutoscaler", "llm")["spec"]["behavior"]
    assert _down(behavior) == (window_s, [{"type": "Pods", "value": 1, "periodSeconds": period_s}])


@pytest.mark.parametrize("preset", PRESETS[1:])
def test_gpu_presets_scale_every_component(helm: Helm, preset: str) -> None:
    manifests = helm.render(values("router.settings.checkpoint=/models/r", preset=preset, apis=(KEDA,)))
    assert len(of_kind(manifests, "ScaledObject")) == len(COMPONENTS)
    # The Service of the prometheus-community chart has HTTP's own port.
    addresses = {_trigger(manifests, component)["metadata"]["serverAddress"] for component in COMPONENTS}
    assert addresses == {"http://prometheus-server.monitoring.svc"}


def test_reference_preset_scales_nothing(helm: Helm) -> None:
    manifests = helm.render(values(preset="values-reference"))
    assert of_kind(manifests, "ScaledObject") == of_kind(manifests, "HorizontalPodAutoscaler") == []
