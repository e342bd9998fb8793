"""HTTPS of the gateway: whose certificate it is, what stays plain text, and how routes and `helm test` get there."""

from __future__ import annotations

import json

import pytest

from tests.unit.chart.harness.cases import CASES
from tests.unit.chart.harness.helm import (
    CHART,
    GATEWAY_API,
    Helm,
    Manifest,
    Values,
    container,
    environment,
    named,
    of_kind,
)
from tests.unit.chart.harness.helm import values as chosen

SHARED = "HTTPS by the services' certificates"
OWN = "HTTPS with a certificate of its own"
HEALTH_PORT = 50059


def _mounts(item: Manifest, spec: Manifest) -> dict[str, Manifest]:
    """The Secrets that a container sees, by path."""
    volumes = {volume["name"]: volume.get("secret") for volume in spec["volumes"]}
    return {mount["mountPath"]: volumes[mount["name"]] for mount in item["volumeMounts"] if volumes[mount["name"]]}


def _gateway_mounts(manifests: list[Manifest]) -> dict[str, Manifest]:
    spec = named(manifests, "Deployment", "gateway")["spec"]["template"]["spec"]
    return _mounts(spec["containers"][0], spec)


def test_without_it_nothing_knows_of_https(helm: Helm) -> None:
    found = named(helm.render(CASES["TLS with one Secret"]), "Deployment", "gateway")
    assert "https" not in json.dumps(found).lower()


def test_certificate_of_the_services_is_the_one_that_clients_are_shown(helm: Helm) -> None:
    manifests = helm.render(CASES[SHARED])
    found = environment(manifests, "gateway")
    assert found["TRIVIUM_GATEWAY_HTTPS_CERT_FILE"] == found["TRIVIUM_GATEWAY_TLS_CERT_FILE"]
    assert found["TRIVIUM_GATEWAY_HTTPS_KEY_FILE"] == found["TRIVIUM_GATEWAY_TLS_KEY_FILE"]
    assert "TRIVIUM_GATEWAY_HTTPS_CLIENT_CA_FILE" not in found
    names = named(manifests, "Certificate", "gateway")["spec"]["dnsNames"]
    assert {"demo-trivium-gateway", "demo-trivium-gateway.routing.svc", "llm.internal"} <= set(names)
    assert "llm.internal" not in named(manifests, "Certificate", "slm")["spec"]["dnsNames"]


def test_secrets_of_its_own_are_mounted_where_the_settings_say(helm: Helm) -> None:
    manifests = helm.render(CASES[OWN])
    found = environment(manifests, "gateway")
    mounts = {path: secret["secretName"] for path, secret in _gateway_mounts(manifests).items()}
    asked = {
        name: found[f"TRIVIUM_GATEWAY_HTTPS_{name}_FILE"].rpartition("/") for name in ("CERT", "KEY", "CLIENT_CA")
    }
    assert {name: (mounts[path], file) for name, (path, _, file) in asked.items()} == {
        "CERT": ("public", "tls.crt"),
        "KEY": ("public", "tls.key"),
        "CLIENT_CA": ("callers", "ca.crt"),
    }


@pytest.mark.parametrize("case", [SHARED, OWN, "secure"])
def test_probes_and_metrics_stay_in_plain_text_at_a_port_of_their_own(helm: Helm, case: str) -> None:
    manifests = helm.render(CASES[case])
    item = container(manifests, "gateway")
    assert environment(manifests, "gateway")["TRIVIUM_GATEWAY_HEALTH_PORT"] == str(HEALTH_PORT)
    probes = [item[name]["httpGet"] for name in ("startupProbe", "readinessProbe", "livenessProbe")]
    assert [(probe["port"], probe.get("scheme", "HTTP")) for probe in probes] == [("health", "HTTP")] * 3
    policies = [item for item in of_kind(manifests, "NetworkPolicy") if item["metadata"]["name"].endswith("-gateway")]
    led_to = {
        policy["metadata"]["name"]: [port["port"] for rule in policy["spec"]["ingress"] for port in rule["ports"]]
        for policy in policies
    }
    assert led_to == {
        "demo-trivium-clients-to-gateway": [8000],
        "demo-trivium-prometheus-to-gateway": [HEALTH_PORT],
    }


def test_pod_monitor_scrapes_where_the_metrics_are(helm: Helm) -> None:
    manifests = helm.render(CASES[OWN])
    [monitor] = of_kind(manifests, "PodMonitor")
    ports = {item["name"]: item["containerPort"] for item in container(manifests, "gateway")["ports"]}
    assert [item["port"] for item in monitor["spec"]["podMetricsEndpoints"]] == ["metrics", "health"]
    assert ports == {"https": 8000, "health": HEALTH_PORT}


@pytest.mark.parametrize("case", [SHARED, OWN])
def test_service_says_that_it_speaks_https(helm: Helm, case: str) -> None:
    manifests = helm.render(CASES[case])
    [port] = named(manifests, "Service", "gateway")["spec"]["ports"]
    assert (port["name"], port["targetPort"], port["appProtocol"]) == ("https",) * 3
    assert port["targetPort"] in [item["name"] for item in container(manifests, "gateway")["ports"]]


def test_ingress_and_route_lead_to_a_port_that_is_there(helm: Helm) -> None:
    manifests = helm.render(CASES[OWN])
    [port] = named(manifests, "Service", "gateway")["spec"]["ports"]
    [ingress] = of_kind(manifests, "Ingress")
    [route] = of_kind(manifests, "HTTPRoute")
    paths = [path for rule in ingress["spec"]["rules"] for path in rule["http"]["paths"]]
    assert {path["backend"]["service"]["port"]["name"] for path in paths} == {port["name"]}
    assert [item["port"] for rule in route["spec"]["rules"] for item in rule["backendRefs"]] == [port["port"]]


def test_gateways_of_the_cluster_are_told_what_the_certificate_is_for(helm: Helm) -> None:
    [policy] = of_kind(helm.render(CASES[OWN]), "BackendTLSPolicy")
    assert policy["apiVersion"] == GATEWAY_API
    assert policy["spec"] == {
        "targetRefs": [{"group": "", "kind": "Service", "name": "demo-trivium-gateway"}],
        "validation": {
            "caCertificateRefs": [{"group": "", "kind": "ConfigMap", "name": "public-ca"}],
            "hostname": "llm.example.com",
        },
    }


def _test_pod(helm: Helm, asked: Values) -> tuple[dict[str, str], dict[str, Manifest], list[str]]:
    spec = named(helm.render(asked), "Pod", "test-http")["spec"]
    [item] = spec["containers"]
    return {entry["name"]: entry["value"] for entry in item["env"]}, _mounts(item, spec), item["args"]


def test_helm_test_sees_the_ca_and_not_the_key(helm: Helm) -> None:
    variables, mounts, arguments = _test_pod(helm, CASES[SHARED])
    assert arguments[0] == "https://demo-trivium-gateway:443"
    assert variables == {"CA_FILE": "/etc/trivium/ca/ca.crt", "SERVER_NAME": "llm.internal"}
    [(path, secret)] = mounts.items()
    assert path == "/etc/trivium/ca"
    assert (secret["secretName"], secret["items"], secret["optional"]) == (
        "demo-trivium-gateway-tls", [{"key": "ca.crt", "path": "ca.crt"}], True,
    )  # fmt: skip


def test_helm_test_shows_a_certificate_where_one_is_asked_for(helm: Helm) -> None:
    variables, mounts, _ = _test_pod(helm, CASES[OWN])
    assert variables["CERTIFICATE_DIR"] in mounts
    assert mounts[variables["CERTIFICATE_DIR"]]["secretName"] == "tester"
    asked = chosen("tls.enabled=true,tls.secretName=a,gateway.tls.enabled=true,gateway.tls.clientCaSecret.name=b")
    assert [item for item in of_kind(helm.render(asked), "Pod") if item["metadata"]["name"].endswith("http")] == []


def test_helm_test_asks_for_the_name_of_every_certificate_where_they_are_shared(helm: Helm) -> None:
    asked = chosen("tls.enabled=true,tls.secretName=shared,gateway.tls.enabled=true")
    assert _test_pod(helm, asked)[0]["SERVER_NAME"] == "demo-trivium.routing.svc"
    asked = chosen("gateway.tls.enabled=true,gateway.tls.secretName=public")
    assert "SERVER_NAME" not in _test_pod(helm, asked)[0]


def test_notes_show_a_request_over_https(helm: Helm) -> None:
    settings = "tls.enabled=true,tls.secretName=shared,gateway.tls.enabled=true,gateway.service.port=443"
    text = helm.run("install", "demo", str(CHART), "--namespace", "routing", "--dry-run=client", "--set", settings)
    notes = text[text.index("NOTES:") :]
    assert "https://demo-trivium-gateway.routing.svc/v1 " in notes
    assert "get secret shared " in notes
    assert "--resolve demo-trivium.routing.svc:8000:127.0.0.1 https://demo-trivium.routing.svc:8000/v1/chat" in notes
    assert "http://" not in notes
