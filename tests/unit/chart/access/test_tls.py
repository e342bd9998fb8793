"""templates/tls and _tls.tpl: certificates of the services, and how they are probed beside them."""

from __future__ import annotations

import json

import pytest

from tests.unit.chart.harness.cases import CASES
from tests.unit.chart.harness.helm import Helm, Manifest, container, environment, named, of_kind, values

SERVICES = ("slm", "router", "llm", "orchestrator")
COMPONENTS = (*SERVICES, "gateway")
CALLERS = {"orchestrator", "gateway"}
PATH = "/etc/trivium/tls"


def _secret(manifests: list[Manifest], component: str) -> str:
    spec = named(manifests, "Deployment", component)["spec"]["template"]["spec"]
    [volume] = [item for item in spec["volumes"] if item["name"] == "tls"]
    [mount] = [item for item in container(manifests, component)["volumeMounts"] if item["name"] == "tls"]
    # As a whole: a single file of it would stay as it was when the container started.
    assert mount == {"name": "tls", "mountPath": PATH, "readOnly": True}
    name: str = volume["secret"]["secretName"]
    return name


def test_without_tls_nothing_knows_of_certificates(helm: Helm) -> None:
    # Of the pods of `helm test`, one knows of them whatever the values are.
    manifests = [item for item in helm.render(values()) if item["kind"] != "Pod"]
    assert "tls" not in json.dumps(manifests).lower()


@pytest.mark.parametrize("component", COMPONENTS)
def test_certificate_of_each_service_is_mounted_where_its_settings_say(helm: Helm, component: str) -> None:
    manifests = helm.render(CASES["TLS by cert-manager"])
    [certificate] = [named(manifests, "Certificate", component)]
    assert _secret(manifests, component) == certificate["spec"]["secretName"] == f"demo-trivium-{component}-tls"
    found = environment(manifests, component)
    prefix = f"TRIVIUM_{component.upper()}_TLS_"
    assert found[f"{prefix}CERT_FILE"] == f"{PATH}/tls.crt"
    assert found[f"{prefix}KEY_FILE"] == f"{PATH}/tls.key"


@pytest.mark.parametrize("component", SERVICES)
def test_services_take_only_clients_with_a_certificate(helm: Helm, component: str) -> None:
    found = environment(helm.render(CASES["TLS by cert-manager"]), component)
    assert found[f"TRIVIUM_{component.upper()}_TLS_CLIENT_CA_FILE"] == f"{PATH}/ca.crt"


@pytest.mark.parametrize("component", COMPONENTS)
def test_callers_ask_for_the_name_that_every_certificate_is_for(helm: Helm, component: str) -> None:
    manifests = helm.render(CASES["TLS by cert-manager"])
    found = environment(manifests, component)
    prefix = f"TRIVIUM_{component.upper()}_TLS_"
    assert (f"{prefix}CA_FILE" in found) == (component in CALLERS)
    asked = found.get(f"{prefix}SERVER_NAME", "demo-trivium.routing.svc")
    for certificate in of_kind(manifests, "Certificate"):
        assert asked in certificate["spec"]["dnsNames"]


def test_certificates_are_for_both_ends_and_by_the_issuer(helm: Helm) -> None:
    manifests = helm.render(CASES["TLS by cert-manager"])
    assert len(of_kind(manifests, "Certificate")) == len(COMPONENTS)
    for certificate in of_kind(manifests, "Certificate"):
        assert certificate["spec"]["issuerRef"] == {
            "name": "trivium-ca", "kind": "ClusterIssuer", "group": "cert-manager.io",
        }  # fmt: skip
        assert {"server auth", "client auth"} <= set(certificate["spec"]["usages"])
        # A common name longer than 64 characters would be refused, and this one could be.
        assert "commonName" not in certificate["spec"]


def test_shared_secret_is_everyones_and_needs_no_cert_manager(helm: Helm) -> None:
    manifests = helm.render(CASES["TLS with one Secret"])
    assert {_secret(manifests, component) for component in COMPONENTS} == {"shared"}
    assert of_kind(manifests, "Certificate") == []
    assert environment(manifests, "orchestrator")["TRIVIUM_ORCHESTRATOR_TLS_SERVER_NAME"] == "trivium.internal"


def test_secret_of_one_service_comes_before_a_certificate_of_the_charts(helm: Helm) -> None:
    manifests = helm.render(CASES["TLS with some Secrets"])
    assert _secret(manifests, "llm") == "mine"
    made = {item["metadata"]["labels"]["app.kubernetes.io/component"] for item in of_kind(manifests, "Certificate")}
    assert made == set(COMPONENTS) - {"llm"}


@pytest.mark.parametrize("component", SERVICES)
def test_probes_that_know_no_tls_ask_at_a_port_of_their_own(helm: Helm, component: str) -> None:
    manifests = helm.render(CASES["TLS with one Secret"])
    port = int(environment(manifests, component)[f"TRIVIUM_{component.upper()}_HEALTH_PORT"])
    assert port != int(environment(manifests, component)[f"TRIVIUM_{component.upper()}_PORT"])
    item = container(manifests, component)
    probes = [item[name]["grpc"] for name in ("startupProbe", "readinessProbe", "livenessProbe")]
    assert [probe["port"] for probe in probes] == [port] * 3
    assert probes[2]["service"] == "liveness"
    # Closed to everyone but the node's kubelet.
    policies = json.dumps([item["spec"] for item in of_kind(manifests, "NetworkPolicy")])
    assert str(port) not in policies


def test_services_say_that_they_speak_tls(helm: Helm) -> None:
    for case, protocol in (("defaults", "kubernetes.io/h2c"), ("TLS with one Secret", "https")):
        ports = [
            item for service in of_kind(helm.render(CASES[case]), "Service") for item in service["spec"]["ports"]
        ]
        assert {item["appProtocol"] for item in ports if item["name"] == "grpc"} == {protocol}


def test_ca_of_an_external_redis_is_mounted_at_the_orchestrator(helm: Helm) -> None:
    manifests = helm.render(CASES["external redis with TLS"])
    path = environment(manifests, "orchestrator")["TRIVIUM_ORCHESTRATOR_REDIS_CA_FILE"]
    [mount] = [item for item in container(manifests, "orchestrator")["volumeMounts"] if item["name"] == "redis-ca"]
    assert path == f"{mount['mountPath']}/ca.crt"
    assert "redis-ca" not in json.dumps(named(manifests, "Deployment", "gateway"))
