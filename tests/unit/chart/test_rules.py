"""Rules of routing: the default one, sweeps, and releases without a router."""

from __future__ import annotations

import json

import pytest

from tests.unit.chart.harness.cases import CASES, NO_ROUTER
from tests.unit.chart.harness.helm import CHART, RELEASE, Helm, container, environment, named, of_kind, pods, values

IN_THE_IMAGE = "/opt/trivium/reference"


@pytest.mark.parametrize("case", [case for case in CASES if NO_ROUTER in CASES[case].settings])
def test_without_a_router_nothing_of_it_is_made(helm: Helm, case: str) -> None:
    manifests = helm.render(CASES[case])
    assert [item for item in manifests if "-router" in item["metadata"]["name"]] == []
    policies = json.dumps(of_kind(manifests, "NetworkPolicy"))
    assert "orchestrator" in policies
    assert "router" not in policies


def test_without_a_router_the_orchestrator_gets_a_rule_and_no_address(helm: Helm) -> None:
    found = environment(helm.render(CASES["no router"]), "orchestrator")
    assert found["TRIVIUM_ORCHESTRATOR_RULE"] == "entropy:threshold=0.7"
    assert "TRIVIUM_ORCHESTRATOR_ROUTER" not in found


def test_without_a_router_no_certificate_is_asked_for_it(helm: Helm) -> None:
    settings = "tls.enabled=true,tls.secretNames.slm=a,tls.secretNames.llm=b,tls.secretNames.orchestrator=c"
    assert helm.render(values(NO_ROUTER, settings, "tls.secretNames.gateway=d"))


def test_rule_is_the_routers_unless_named(helm: Helm) -> None:
    found = environment(helm.render(values()), "orchestrator")
    assert found["TRIVIUM_ORCHESTRATOR_RULE"] == "router"
    assert found["TRIVIUM_ORCHESTRATOR_ROUTER"] == "demo-trivium-router:50053"


def test_sweeps_of_the_pair_in_the_images_are_those_that_ship(helm: Helm) -> None:
    found = environment(helm.render(values()), "orchestrator")["TRIVIUM_ORCHESTRATOR_RULE_SWEEPS"].split(",")
    weights = CHART.parents[1] / "evaluation" / "reference" / "weights"
    shipped = sorted((weights / "rules").glob("*.json"))
    assert found == [f"{IN_THE_IMAGE}/{path.relative_to(weights)}" for path in shipped]


def test_sweeps_of_a_config_map_are_mounted_where_they_are_read(helm: Helm) -> None:
    manifests = helm.render(CASES["r1 without a router"])
    [path] = environment(manifests, "orchestrator")["TRIVIUM_ORCHESTRATOR_RULE_SWEEPS"].split(",")
    mounts = container(manifests, "orchestrator")["volumeMounts"]
    [mount] = [mount for mount in mounts if path.startswith(f"{mount['mountPath']}/")]
    spec = named(manifests, "Deployment", "orchestrator")["spec"]["template"]["spec"]
    assert {"name": mount["name"], "configMap": {"name": "sweeps"}} in spec["volumes"]
    others = [spec for name, spec in pods(manifests) if not name.endswith("-orchestrator")]
    assert "sweeps" not in json.dumps(others)


def test_shadow_and_sample_are_where_the_orchestrator_looks_for_them(helm: Helm) -> None:
    manifests = helm.render(CASES["shadow and sample"])
    found = environment(manifests, "orchestrator")
    assert found["TRIVIUM_ORCHESTRATOR_SHADOW_RULE"] == "router"
    assert found["TRIVIUM_ORCHESTRATOR_SHADOW_SHARE"] == "0.5"
    assert environment(manifests, "router")["TRIVIUM_ROUTER_SHADOW_CHECKPOINT"] == f"{IN_THE_IMAGE}/router"
    mounts = container(manifests, "orchestrator")["volumeMounts"]
    [mount] = [mount for mount in mounts if mount["mountPath"] == found["TRIVIUM_ORCHESTRATOR_SAMPLE_DIR"]]
    assert not mount.get("readOnly")
    spec = named(manifests, "Deployment", "orchestrator")["spec"]["template"]["spec"]
    assert {"name": mount["name"], "persistentVolumeClaim": {"claimName": "drafts"}} in spec["volumes"]
    others = [spec for name, spec in pods(manifests) if not name.endswith("-orchestrator")]
    assert "drafts" not in json.dumps(others)


def test_nothing_is_kept_and_nothing_shadowed_unless_asked_for(helm: Helm) -> None:
    found = environment(helm.render(values()), "orchestrator")
    assert not {"TRIVIUM_ORCHESTRATOR_SAMPLE_DIR", "TRIVIUM_ORCHESTRATOR_SHADOW_RULE"} & found.keys()


def test_notes_without_a_router_name_the_rule_and_no_router(helm: Helm) -> None:
    install = ("install", RELEASE, str(CHART), "--dry-run=client", "--set", "modelCache.kind=claim")
    notes = "; the router is read from", "corrects, by the rule entropy:threshold=0.7."
    with_router, without = helm.run(*install), helm.run(*install, "--set", NO_ROUTER)
    assert [note in with_router for note in notes] == [True, False]
    assert [note in without for note in notes] == [False, True]
