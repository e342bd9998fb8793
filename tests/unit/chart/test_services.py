"""templates/slm, router, llm, orchestrator and gateway: deployments, services, budgets, accounts."""

from __future__ import annotations

import pytest

from tests.unit.chart.harness.helm import (
    CHART,
    PRESETS,
    Helm,
    Values,
    container,
    environment,
    named,
    of_kind,
    pods,
    values,
)

COMPONENTS = ("slm", "router", "llm", "orchestrator", "gateway")
SLM = "templates/slm/deployment.yaml"
R1 = ("router.settings.checkpoint=/models/routers/mine", *(f"{name}.autoscaling.kind=none" for name in COMPONENTS))


@pytest.mark.parametrize(
    ("component", "module", "image"),
    [
        ("slm", "services.slm", "trivium-cpu:0.1.0"),
        ("router", "router_service", "trivium-cpu:0.1.0"),
        ("llm", "services.llm", "trivium-cpu:0.1.0"),
        ("orchestrator", "services.orchestrator", "trivium-light:0.1.0"),
        ("gateway", "services.gateway", "trivium-light:0.1.0"),
    ],
)
def test_deployment_runs_the_module_in_its_image(helm: Helm, component: str, module: str, image: str) -> None:
    item = container(helm.render(values()), component)
    assert item["command"] == ["python3", "-m", module]
    assert item["image"] == image


def test_reason_of_an_end_stays_in_the_status_of_the_pod(helm: Helm) -> None:
    found = [item for _, spec in pods(helm.render(values())) for item in spec["containers"]]
    services = [item for item in found if item["name"] != "test"]
    assert len(services) == len(COMPONENTS) + 1
    assert {item["terminationMessagePolicy"] for item in services} == {"FallbackToLogsOnError"}


def test_image_with_a_digest_is_named_by_it(helm: Helm) -> None:
    digest = f"sha256:{'0c' * 32}"
    manifests = helm.render(values("images.registry=r.example/ml", "images.tag=v9", f"images.cpu.digest={digest}"))
    assert container(manifests, "slm")["image"] == f"r.example/ml/trivium-cpu@{digest}"
    assert container(manifests, "orchestrator")["image"] == "r.example/ml/trivium-light:v9"


@pytest.mark.parametrize("component", ["slm", "router", "llm"])
def test_service_of_replicas_is_headless(helm: Helm, component: str) -> None:
    manifests = helm.render(values())
    service = named(manifests, "Service", component)
    assert service["spec"]["clusterIP"] == "None"
    port = environment(manifests, component)[f"TRIVIUM_{component.upper()}_PORT"]
    assert [item["port"] for item in service["spec"]["ports"]] == [int(port)]
    address = environment(manifests, "orchestrator")[f"TRIVIUM_ORCHESTRATOR_{component.upper()}"]
    assert address == f"{service['metadata']['name']}:{port}"


def test_service_of_the_orchestrator_has_an_address(helm: Helm) -> None:
    spec = named(helm.render(values()), "Service", "orchestrator")["spec"]
    assert spec["type"] == "ClusterIP"
    assert "clusterIP" not in spec


@pytest.mark.parametrize("component", COMPONENTS)
def test_selectors_find_the_pods_of_one_component(helm: Helm, component: str) -> None:
    manifests = helm.render(values())
    labels = named(manifests, "Deployment", component)["spec"]["template"]["metadata"]["labels"]
    for kind, path in (("Deployment", "matchLabels"), ("PodDisruptionBudget", "matchLabels")):
        selector = named(manifests, kind, component)["spec"]["selector"][path]
        assert selector.items() <= labels.items()
        assert selector["app.kubernetes.io/component"] == component
    assert named(manifests, "Service", component)["spec"]["selector"].items() <= labels.items()


@pytest.mark.parametrize("component", COMPONENTS[:4])
def test_probes_are_grpc_and_liveness_has_a_name_of_its_own(helm: Helm, component: str) -> None:
    manifests = helm.render(values())
    item = container(manifests, component)
    port = int(environment(manifests, component)[f"TRIVIUM_{component.upper()}_PORT"])
    assert item["readinessProbe"]["grpc"] == {"port": port}
    assert item["livenessProbe"]["grpc"] == {"port": port, "service": "liveness"}
    # The orchestrator waits for the others however long they load.
    expected = {"port": port, "service": "liveness"} if component == "orchestrator" else {"port": port}
    assert item["startupProbe"]["grpc"] == expected


@pytest.mark.parametrize(("seconds", "failures"), [(5, 1), (300, 60), (301, 61), (3600, 720)])
def test_startup_probe_gives_the_seconds_asked_for(helm: Helm, seconds: int, failures: int) -> None:
    probe = container(helm.render(values(f"llm.startupTimeoutS={seconds}")), "llm")["startupProbe"]
    assert (probe["periodSeconds"], probe["failureThreshold"]) == (5, failures)


@pytest.mark.parametrize("drain_s", [0, 30, 900])
@pytest.mark.parametrize("component", COMPONENTS)
def test_grace_period_is_longer_than_leaving_and_draining(helm: Helm, component: str, drain_s: int) -> None:
    manifests = helm.render(values(f"{component}.settings.drainTimeoutS={drain_s}"))
    spec = named(manifests, "Deployment", component)["spec"]["template"]["spec"]
    assert environment(manifests, component)[f"TRIVIUM_{component.upper()}_DRAIN_TIMEOUT_S"] == str(drain_s)
    # Connections of the orchestrator's clients live for 10 seconds, give or take one.
    leave_s = 3 + 13 if component == "orchestrator" else 3
    assert container(manifests, component)["lifecycle"]["preStop"]["sleep"]["seconds"] == leave_s
    assert spec["terminationGracePeriodSeconds"] == leave_s + drain_s + 15


@pytest.mark.parametrize(("age_s", "leave_s"), [(0, 3), (1, 3 + 4), (30, 3 + 35), (45, 3 + 52)])
def test_orchestrator_takes_requests_until_the_last_connection_is_too_old(
    helm: Helm, age_s: int, leave_s: int
) -> None:
    manifests = helm.render(values(f"orchestrator.settings.maxConnectionAgeS={age_s}"))
    assert environment(manifests, "orchestrator")["TRIVIUM_ORCHESTRATOR_MAX_CONNECTION_AGE_S"] == str(age_s)
    assert container(manifests, "orchestrator")["lifecycle"]["preStop"]["sleep"]["seconds"] == leave_s


@pytest.mark.parametrize("component", COMPONENTS)
def test_budget_lets_one_pod_go_at_a_time(helm: Helm, component: str) -> None:
    spec = named(helm.render(values(f"{component}.replicas=3")), "PodDisruptionBudget", component)["spec"]
    assert (spec["maxUnavailable"], spec["unhealthyPodEvictionPolicy"]) == (1, "AlwaysAllow")


@pytest.mark.parametrize("component", [*COMPONENTS, "redis"])
def test_service_account_has_no_token_and_no_rights(helm: Helm, component: str) -> None:
    manifests = helm.render(values())
    assert named(manifests, "ServiceAccount", component)["automountServiceAccountToken"] is False
    assert of_kind(manifests, "Role") == of_kind(manifests, "ClusterRole") == []


def test_large_numbers_stay_whole(helm: Helm) -> None:
    manifests = helm.render(values(text="{user: 1000660000, llm: {settings: {kvCacheTokens: 123456789}}}"))
    spec = named(manifests, "Deployment", "llm")["spec"]["template"]["spec"]
    assert spec["securityContext"]["runAsUser"] == 1000660000
    assert environment(manifests, "llm")["TRIVIUM_LLM_KV_CACHE_TOKENS"] == "123456789"


def test_setting_that_is_empty_is_left_to_the_process(helm: Helm) -> None:
    assert "TRIVIUM_SLM_REVISION" not in environment(helm.render(values()), "slm")


def test_tokenizer_is_the_small_models_unless_named(helm: Helm) -> None:
    found = environment(helm.render(values("slm.settings.model=a/b,slm.settings.revision=c")), "orchestrator")
    assert found["TRIVIUM_ORCHESTRATOR_TOKENIZER"] == "a/b"
    assert found["TRIVIUM_ORCHESTRATOR_TOKENIZER_REVISION"] == "c"
    found = environment(helm.render(values("orchestrator.settings.tokenizer=d/e")), "orchestrator")
    assert found["TRIVIUM_ORCHESTRATOR_TOKENIZER"] == "d/e"
    assert "TRIVIUM_ORCHESTRATOR_TOKENIZER_REVISION" not in found


@pytest.mark.parametrize("preset", PRESETS[1:])
def test_tensor_parallel_llm_has_its_gpus_and_shared_memory(helm: Helm, preset: str) -> None:
    manifests = helm.render(values(*R1, preset=preset))
    item = container(manifests, "llm")
    assert item["resources"]["limits"]["nvidia.com/gpu"] == 2
    assert {"name": "shm", "mountPath": "/dev/shm"} in item["volumeMounts"]
    volumes = named(manifests, "Deployment", "llm")["spec"]["template"]["spec"]["volumes"]
    assert {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "16Gi"}} in volumes
    assert container(manifests, "slm")["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert environment(manifests, "llm")["TRIVIUM_LLM_TP_SIZE"] == "2"


def test_gpu_slices_have_the_name_given(helm: Helm) -> None:
    resource = "nvidia.com/mig-1g.10gb"
    manifests = helm.render(values(text=f"slm: {{gpus: 1, gpuResource: {resource}}}"))
    assert container(manifests, "slm")["resources"]["limits"] == {resource: 1, "memory": "2Gi"}


def test_update_without_spare_gpus_takes_before_it_gives(helm: Helm) -> None:
    strategy = named(helm.render(values(*R1, preset="values-r1-1.5b-32b")), "Deployment", "llm")["spec"]["strategy"]
    assert strategy["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}


@pytest.mark.parametrize("component", COMPONENTS)
@pytest.mark.parametrize(("asked", "seconds"), [(values(), 30), (values(preset="values-reference"), 5)])
def test_update_goes_on_once_new_pods_are_known(helm: Helm, component: str, asked: Values, seconds: int) -> None:
    manifests = helm.render(asked)
    spec = named(manifests, "Deployment", component)["spec"]
    assert spec["minReadySeconds"] == seconds
    # Or else an update that goes well would count as stuck.
    probe = container(manifests, component)["startupProbe"]
    assert spec["progressDeadlineSeconds"] > probe["periodSeconds"] * probe["failureThreshold"] + seconds


def test_pods_are_spread_over_nodes_within_a_revision(helm: Helm) -> None:
    spec = named(helm.render(values()), "Deployment", "llm")["spec"]["template"]["spec"]
    [constraint] = spec["topologySpreadConstraints"]
    assert constraint["topologyKey"] == "kubernetes.io/hostname"
    assert constraint["matchLabelKeys"] == ["pod-template-hash"]
    assert constraint["labelSelector"]["matchLabels"]["app.kubernetes.io/component"] == "llm"


def test_chart_version_is_no_label_of_pods(helm: Helm) -> None:
    for deployment in of_kind(helm.render(values()), "Deployment"):
        assert "helm.sh/chart" in deployment["metadata"]["labels"]
        assert "helm.sh/chart" not in deployment["spec"]["template"]["metadata"]["labels"]


def test_labels_and_annotations_of_pods_are_added(helm: Helm) -> None:
    text = "{commonLabels: {a: '1'}, slm: {podLabels: {b: '2'}, podAnnotations: {c: '3'}}}"
    metadata = named(helm.render(values(text=text)), "Deployment", "slm")["spec"]["template"]["metadata"]
    assert {"a": "1", "b": "2"}.items() <= metadata["labels"].items()
    assert metadata["annotations"]["c"] == "3"


def test_annotations_of_pods_come_before_the_charts(helm: Helm) -> None:
    text = "slm: {podAnnotations: {prometheus.io/port: '8080'}}"
    rendered = helm.run("template", "demo", str(CHART), "--values", "-", "--show-only", SLM, stdin=text)
    assert rendered.count("prometheus.io/port:") == 1
    assert 'prometheus.io/port: "8080"' in rendered


def test_names_of_a_release_that_is_called_like_the_chart_are_short(helm: Helm) -> None:
    text = helm.run("template", "my-trivium", str(CHART))
    assert "name: my-trivium-llm\n" in text
    assert "my-trivium-trivium" not in text
