"""templates/models, and where models come from: cache, token, offline."""

from __future__ import annotations

import pytest
import yaml

from tests.unit.chart.harness.helm import CHART, Helm, Manifest, container, environment, named, of_kind, values
from tests.unit.chart.harness.kubernetes_schemas import problems
from tests.unit.chart.harness.pod_security import violations

COMPONENTS = ("slm", "router", "llm", "orchestrator")
SLM = "templates/slm/deployment.yaml"


def _models_volume(manifests: list[Manifest], component: str) -> Manifest:
    volumes = named(manifests, "Deployment", component)["spec"]["template"]["spec"]["volumes"]
    found: list[Manifest] = [volume for volume in volumes if volume["name"] == "models"]
    [volume] = found
    return volume


def test_no_cache_downloads_to_the_pods_own_tmp(helm: Helm) -> None:
    manifests = helm.render(values())
    assert environment(manifests, "llm")["HF_HOME"] == "/tmp/huggingface"
    assert [mount["name"] for mount in container(manifests, "llm")["volumeMounts"]] == ["tmp"]
    assert of_kind(manifests, "PersistentVolumeClaim") == []


@pytest.mark.parametrize("component", COMPONENTS)
def test_claim_is_created_and_mounted(helm: Helm, component: str) -> None:
    manifests = helm.render(values("modelCache.kind=claim,modelCache.mountPath=/weights"))
    claim = named(manifests, "PersistentVolumeClaim", "models")
    assert _models_volume(manifests, component)["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    assert {"name": "models", "mountPath": "/weights"} in container(manifests, component)["volumeMounts"]
    assert environment(manifests, component)["HF_HOME"] == "/weights/huggingface"


def test_claim_asks_for_what_it_is_told(helm: Helm) -> None:
    text = "modelCache: {kind: claim, claim: {size: 7Gi, storageClassName: fast, accessModes: [ReadWriteOnce]}}"
    spec = named(helm.render(values(text=text)), "PersistentVolumeClaim", "models")["spec"]
    assert spec == {
        "accessModes": ["ReadWriteOnce"],
        "storageClassName": "fast",
        "resources": {"requests": {"storage": "7Gi"}},
    }


def test_claim_outlives_the_release_only_if_asked(helm: Helm) -> None:
    kept = named(
        helm.render(values("modelCache.kind=claim,modelCache.claim.keep=true")), "PersistentVolumeClaim", "models"
    )
    assert kept["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    gone = named(helm.render(values("modelCache.kind=claim")), "PersistentVolumeClaim", "models")
    assert "annotations" not in gone["metadata"]


def test_pod_that_copies_a_router_is_admitted_and_writes_to_the_claim_as_the_charts_user(helm: Helm) -> None:
    page = (CHART / "README.md").read_text(encoding="utf-8")
    pod = yaml.safe_load(page.partition("<<'END'\n")[2].partition("\nEND\n")[0])
    assert problems(pod, "1.36") == violations(pod["spec"]) == []
    rendered = helm.run("template", "trivium", str(CHART), "--set", "modelCache.kind=claim", "--show-only", SLM)
    theirs = yaml.safe_load(rendered)["spec"]["template"]["spec"]
    [models] = pod["spec"]["volumes"]
    [copies], [runs] = pod["spec"]["containers"], theirs["containers"]
    assert models in theirs["volumes"]
    assert copies["volumeMounts"][0] in runs["volumeMounts"]
    assert copies["image"] == runs["image"]
    # The chart's has another policy on top, for speed.
    assert pod["spec"]["securityContext"].items() <= theirs["securityContext"].items()
    assert copies["securityContext"] == runs["securityContext"]


def test_existing_claim_is_mounted_and_none_created(helm: Helm) -> None:
    manifests = helm.render(values("modelCache.kind=existingClaim,modelCache.existingClaim=weights"))
    assert _models_volume(manifests, "llm")["persistentVolumeClaim"] == {"claimName": "weights"}
    assert of_kind(manifests, "PersistentVolumeClaim") == []


def test_host_path_has_to_be_there(helm: Helm) -> None:
    manifests = helm.render(values("modelCache.kind=hostPath,modelCache.hostPath=/srv/models"))
    assert _models_volume(manifests, "llm")["hostPath"] == {"path": "/srv/models", "type": "Directory"}


@pytest.mark.parametrize("component", COMPONENTS)
def test_token_comes_from_its_secret(helm: Helm, component: str) -> None:
    manifests = helm.render(values("huggingFace.tokenSecret.name=hub,huggingFace.tokenSecret.key=t"))
    [token] = [item for item in container(manifests, component)["env"] if item["name"] == "HF_TOKEN"]
    assert token["valueFrom"] == {"secretKeyRef": {"name": "hub", "key": "t"}}


def test_offline_is_told_to_the_library(helm: Helm) -> None:
    assert environment(helm.render(values("huggingFace.offline=true")), "llm")["HF_HUB_OFFLINE"] == "1"
    assert "HF_HUB_OFFLINE" not in environment(helm.render(values()), "llm")
