"""templates/labeler: what labelling Jobs are made from."""

from __future__ import annotations

import pytest

from labeler_jobs.jobs import rights
from labeler_jobs.jobs.manifest import GPU_RESOURCE_ANNOTATION, ManifestError, resolve_out
from labeler_jobs.verifiers.chat_endpoint import EndpointSettings
from services.cli.label.submit import template_name
from tests.unit.chart.harness.helm import CHART, KEDA, PRESETS, RELEASE, Helm, named, of_kind, values

TEMPLATE = "templates/labeler/podtemplate.yaml"


def test_labeler_is_off_unless_asked_for(helm: Helm) -> None:
    manifests = helm.render(values())
    assert not any("labeler" in item["metadata"]["name"] for item in manifests)


def test_pod_template_writes_to_the_claim_and_never_restarts(helm: Helm) -> None:
    manifests = helm.render(values("labeler.enabled=true,labeler.mountPath=/out"))
    spec = named(manifests, "PodTemplate", "labeler")["template"]["spec"]
    claim = named(manifests, "PersistentVolumeClaim", "labeler")["metadata"]
    assert claim["annotations"] == {"helm.sh/resource-policy": "keep"}
    assert spec["restartPolicy"] == "Never"
    assert spec["serviceAccountName"] == named(manifests, "ServiceAccount", "labeler")["metadata"]["name"]
    assert {"name": "labels", "persistentVolumeClaim": {"claimName": claim["name"]}} in spec["volumes"]
    [container] = spec["containers"]
    assert container["command"] == ["trivium", "label"]
    assert {"name": "labels", "mountPath": "/out"} in container["volumeMounts"]


@pytest.mark.parametrize("preset", PRESETS[1:])
def test_gpu_presets_label_with_what_the_large_model_has(helm: Helm, preset: str) -> None:
    settings = ("router.settings.checkpoint=/models/r", "labeler.enabled=true")
    manifests = helm.render(values(*settings, preset=preset, apis=(KEDA,)))
    spec = named(manifests, "PodTemplate", "labeler")["template"]["spec"]
    llm = named(manifests, "Deployment", "llm")["spec"]["template"]["spec"]
    [container], [theirs] = spec["containers"], llm["containers"]
    assert (container["image"], container["resources"]) == ("trivium-gpu:0.1.0", theirs["resources"])
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 2
    assert spec["tolerations"] == llm["tolerations"]
    assert [item for item in spec["volumes"] if item["name"] != "labels"] == llm["volumes"]
    assert {mount["mountPath"] for mount in container["volumeMounts"]} == {"/tmp", "/dev/shm", "/models", "/labels"}


def test_verifier_behind_a_url_gets_its_model_and_the_keys_of_the_secret(
    helm: Helm, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifests = helm.render(values("labeler.enabled=true,labeler.secret=keys,labeler.verifier.model=judge"))
    [container] = named(manifests, "PodTemplate", "labeler")["template"]["spec"]["containers"]
    assert container["envFrom"] == [{"secretRef": {"name": "keys"}}]
    for item in container["env"]:
        monkeypatch.setenv(item["name"], item["value"])
    monkeypatch.setenv("TRIVIUM_VERIFIER_API_KEY", "of the Secret")
    settings = EndpointSettings(base_url="http://judge/v1")  # type: ignore[arg-type, call-arg]
    assert settings.model == "judge"
    assert settings.api_key is not None


def test_pods_have_neither_a_secret_nor_a_verifier_unless_named(helm: Helm) -> None:
    manifests = helm.render(values("labeler.enabled=true"))
    [container] = named(manifests, "PodTemplate", "labeler")["template"]["spec"]["containers"]
    assert "envFrom" not in container
    assert [item["name"] for item in container["env"]] == ["HF_HOME"]


def test_labels_go_to_a_url_where_there_is_no_volume(helm: Helm) -> None:
    manifests = helm.render(values("labeler.enabled=true,labeler.volume=false"))
    template = named(manifests, "PodTemplate", "labeler")
    spec = template["template"]["spec"]
    assert of_kind(manifests, "PersistentVolumeClaim") == []
    assert [volume["name"] for volume in spec["volumes"]] == ["tmp"]
    assert resolve_out(template, "s3://bucket/labels") == "s3://bucket/labels"
    with pytest.raises(ManifestError):
        resolve_out(template, "train")


def test_existing_claim_is_taken_and_none_created(helm: Helm) -> None:
    manifests = helm.render(values("labeler.enabled=true,labeler.existingClaim=shards"))
    volumes = named(manifests, "PodTemplate", "labeler")["template"]["spec"]["volumes"]
    assert {"name": "labels", "persistentVolumeClaim": {"claimName": "shards"}} in volumes
    assert of_kind(manifests, "PersistentVolumeClaim") == []


def test_queue_name_is_kueues_label(helm: Helm) -> None:
    label = "kueue.x-k8s.io/queue-name"
    manifests = helm.render(values("labeler.enabled=true,labeler.queueName=labels"))
    assert named(manifests, "PodTemplate", "labeler")["metadata"]["labels"][label] == "labels"
    manifests = helm.render(values("labeler.enabled=true"))
    assert label not in named(manifests, "PodTemplate", "labeler")["metadata"]["labels"]


@pytest.mark.parametrize(
    ("queue", "needed"),
    [("", rights.ALWAYS), ("labels", (*rights.ALWAYS, *rights.WITH_QUEUE))],
    ids=["plain", "kueue"],
)
def test_role_is_what_submitting_takes_and_bound_to_no_one(
    helm: Helm, queue: str, needed: tuple[rights.Right, ...]
) -> None:
    manifests = helm.render(values(f"labeler.enabled=true,labeler.queueName={queue}"))
    rules = named(manifests, "Role", "labeler")["rules"]
    given = {
        (group, resource, verb)
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert given == set(needed)
    [template] = [rule for rule in rules if rule["resources"] == ["podtemplates"]]
    assert template["resourceNames"] == [named(manifests, "PodTemplate", "labeler")["metadata"]["name"]]
    assert of_kind(manifests, "RoleBinding") == []


def test_pod_template_is_found_by_the_name_of_its_release_and_says_what_a_gpu_is(helm: Helm) -> None:
    metadata = named(
        helm.render(values("labeler.enabled=true,labeler.gpuResource=amd.com/gpu")), "PodTemplate", "labeler"
    )["metadata"]
    assert metadata["name"] == template_name(RELEASE)
    assert metadata["annotations"][GPU_RESOURCE_ANNOTATION] == "amd.com/gpu"


@pytest.mark.parametrize("release", ["trivium", "my-trivium", "a-name-that-is-longer-than-the-chart-leaves-it"])
def test_pod_template_name_of_any_release_is_the_charts(helm: Helm, release: str) -> None:
    rendered = helm.run("template", release, str(CHART), "--set", "labeler.enabled=true", "--show-only", TEMPLATE)
    assert f"name: {template_name(release)}\n" in rendered


def test_submitters_are_bound_to_the_role(helm: Helm) -> None:
    text = "labeler: {enabled: true, submitters: [{kind: ServiceAccount, name: ci, namespace: builds}]}"
    binding = named(helm.render(values(text=text)), "RoleBinding", "labeler")
    assert binding["roleRef"]["name"] == "demo-trivium-labeler"
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "ci", "namespace": "builds"}]


def test_labelling_pods_are_called_by_no_one(helm: Helm) -> None:
    policy = named(helm.render(values("labeler.enabled=true")), "NetworkPolicy", "labeler")["spec"]
    assert (policy["policyTypes"], policy["ingress"]) == (["Ingress"], [])
