"""API keys: which services hold the file, and which pods send one."""

from __future__ import annotations

import json

import pytest

from tests.unit.chart.harness.cases import CASES
from tests.unit.chart.harness.helm import Helm, container, environment, named, of_kind, values

FRONT_DOORS = ("gateway", "orchestrator")


@pytest.mark.parametrize("component", FRONT_DOORS)
def test_file_of_keys_is_mounted_where_the_settings_say(helm: Helm, component: str) -> None:
    manifests = helm.render(CASES["keys alone"])
    path = environment(manifests, component)[f"TRIVIUM_{component.upper()}_KEYS_FILE"]
    [mount] = [item for item in container(manifests, component)["volumeMounts"] if item["name"] == "keys"]
    assert mount == {"name": "keys", "mountPath": "/etc/trivium/keys", "readOnly": True}
    assert path == "/etc/trivium/keys/keys"
    volumes = named(manifests, "Deployment", component)["spec"]["template"]["spec"]["volumes"]
    [secret] = [item["secret"] for item in volumes if item["name"] == "keys"]
    assert secret["secretName"] == "trivium-keys"


@pytest.mark.parametrize("component", ["slm", "router", "llm"])
def test_services_behind_the_front_doors_have_no_keys(helm: Helm, component: str) -> None:
    assert "keys" not in json.dumps(named(helm.render(CASES["keys alone"]), "Deployment", component))


def test_without_keys_nobody_asks_for_one(helm: Helm) -> None:
    rendered = json.dumps(helm.render(values()))
    assert "KEYS_FILE" not in rendered
    assert "/etc/trivium" not in rendered


def test_test_pod_sends_the_key_of_a_secret(helm: Helm) -> None:
    manifests = helm.render(values("keys.secretName=keys,test.keySecret.name=mine,test.keySecret.key=token"))
    [item] = named(manifests, "Pod", "test-http")["spec"]["containers"]
    source = {"secretKeyRef": {"name": "mine", "key": "token"}}
    assert item["env"] == [{"name": "API_KEY", "valueFrom": source}]


@pytest.mark.parametrize(
    ("settings", "pods"),
    [
        ("", ["demo-trivium-test", "demo-trivium-test-http"]),
        ("keys.secretName=keys", ["demo-trivium-test-http"]),
        ("tls.enabled=true,tls.secretName=shared", ["demo-trivium-test-http"]),
    ],
)
def test_command_is_no_test_where_a_key_or_a_certificate_is_asked_for(
    helm: Helm, settings: str, pods: list[str]
) -> None:
    found = of_kind(helm.render(values(settings) if settings else values()), "Pod")
    assert [item["metadata"]["name"] for item in found] == pods
