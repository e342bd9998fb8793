"""templates/gateway: what is different about the front door, and how it is reached from outside."""

from __future__ import annotations

import pytest
from fastapi.routing import APIRoute

from services.gateway.playground.page import router as page
from services.gateway.routes import completions, models, operations
from tests.unit.chart.harness.cases import CASES
from tests.unit.chart.harness.helm import GATEWAY_API, Helm, Manifest, container, environment, named, of_kind, values

FOR_THE_CLUSTER = {"/metrics", "/live"}


def _spec(manifests: list[Manifest]) -> Manifest:
    found: Manifest = named(manifests, "Deployment", "gateway")["spec"]["template"]["spec"]
    return found


def test_gateway_finds_every_orchestrator_by_a_headless_service(helm: Helm) -> None:
    manifests = helm.render(values())
    scheme, _, address = environment(manifests, "gateway")["TRIVIUM_GATEWAY_ORCHESTRATOR"].partition(":///")
    name, _, port = address.partition(":")
    service = named(manifests, "Service", "orchestrator-headless")
    assert (scheme, name) == ("dns", service["metadata"]["name"])
    assert service["spec"]["clusterIP"] == "None"
    assert port == environment(manifests, "orchestrator")["TRIVIUM_ORCHESTRATOR_PORT"]
    assert [item["port"] for item in service["spec"]["ports"]] == [int(port)]
    assert service["spec"]["selector"] == named(manifests, "Service", "orchestrator")["spec"]["selector"]


def test_service_has_the_port_of_http(helm: Helm) -> None:
    manifests = helm.render(values())
    [port] = named(manifests, "Service", "gateway")["spec"]["ports"]
    [target] = container(manifests, "gateway")["ports"]
    assert (port["port"], port["targetPort"]) == (80, target["name"])
    assert environment(manifests, "gateway")["TRIVIUM_GATEWAY_PORT"] == str(target["containerPort"])


def test_gateway_that_waits_for_orchestrators_is_not_ready_and_not_killed(helm: Helm) -> None:
    item = container(helm.render(values()), "gateway")
    assert item["readinessProbe"]["httpGet"] == {"path": "/health", "port": "http"}
    assert item["livenessProbe"]["httpGet"] == item["startupProbe"]["httpGet"] == {"path": "/live", "port": "http"}


def test_probes_ask_paths_that_the_gateway_has(helm: Helm) -> None:
    item = container(helm.render(values()), "gateway")
    paths = {item[probe]["httpGet"]["path"] for probe in ("startupProbe", "readinessProbe", "livenessProbe")}
    assert paths <= {route.path for route in operations.router.routes if isinstance(route, APIRoute)}


def test_gateway_has_neither_models_nor_tokens(helm: Helm) -> None:
    text = "{modelCache: {kind: claim}, huggingFace: {tokenSecret: {name: hub}}}"
    manifests = helm.render(values(text=text))
    assert [volume["name"] for volume in _spec(manifests)["volumes"]] == ["tmp"]
    assert all(item["name"].startswith("TRIVIUM_GATEWAY_") for item in container(manifests, "gateway")["env"])
    assert "secretKeyRef" not in str(_spec(manifests))


def test_release_without_a_gateway_has_nothing_of_it(helm: Helm) -> None:
    manifests = helm.render(CASES["no gateway"])
    assert [item for item in manifests if "gateway" in str(item)] == []
    assert len([item for item in of_kind(manifests, "Service") if "orchestrator" in item["metadata"]["name"]]) == 1


def _ingress_paths(helm: Helm) -> set[tuple[str, bool]]:
    [ingress] = of_kind(helm.render(CASES["ingress"]), "Ingress")
    [rule] = ingress["spec"]["rules"]
    return {(item["path"], item["pathType"] == "Prefix") for item in rule["http"]["paths"]}


def _route_paths(helm: Helm) -> set[tuple[str, bool]]:
    [route] = of_kind(helm.render(CASES["routes of the Gateway API"]), "HTTPRoute")
    [rule] = route["spec"]["rules"]
    found = [item["path"] for item in rule["matches"]]
    return {(item["value"], item["type"] == "PathPrefix") for item in found}


def test_outside_reaches_every_path_but_those_for_the_cluster(helm: Helm) -> None:
    routers = (operations.router, completions.router, models.router, page)
    paths = {route.path for router in routers for route in router.routes if isinstance(route, APIRoute)}
    led_to = _ingress_paths(helm)
    outside = {
        path
        for path in paths | {"/openapi.json"}
        for lead, below in led_to
        if path == lead or (below and path.startswith(f"{lead}/"))
    }
    assert outside == (paths | {"/openapi.json"}) - FOR_THE_CLUSTER
    assert _route_paths(helm) == led_to


def test_ingress_leads_to_the_service_under_its_name(helm: Helm) -> None:
    [ingress] = of_kind(helm.render(CASES["ingress"]), "Ingress")
    spec = ingress["spec"]
    [rule] = spec["rules"]
    assert (spec["ingressClassName"], rule["host"]) == ("nginx", "llm.example.com")
    assert spec["tls"] == [{"secretName": "llm-example-com", "hosts": ["llm.example.com"]}]
    backends = [item["backend"]["service"] for item in rule["http"]["paths"]]
    assert all(item == {"name": "demo-trivium-gateway", "port": {"name": "http"}} for item in backends)
    assert ingress["metadata"]["annotations"] == {"nginx.ingress.kubernetes.io/proxy-read-timeout": "600"}


def test_ingress_for_every_name_has_no_tls(helm: Helm) -> None:
    [ingress] = of_kind(helm.render(CASES["ingress for every name"]), "Ingress")
    assert "tls" not in ingress["spec"]
    assert "host" not in ingress["spec"]["rules"][0]


@pytest.mark.parametrize(
    ("kind", "backend", "hostname"),
    [
        ("HTTPRoute", {"name": "demo-trivium-gateway", "port": 80}, "llm.example.com"),
        ("GRPCRoute", {"name": "demo-trivium-orchestrator", "port": 50050}, "grpc.llm.example.com"),
    ],
)
def test_route_hangs_on_its_gateways_and_leads_to_a_service(
    helm: Helm, kind: str, backend: Manifest, hostname: str
) -> None:
    manifests = helm.render(CASES["routes of the Gateway API"])
    [route] = of_kind(manifests, kind)
    assert route["apiVersion"] == GATEWAY_API
    assert route["spec"]["parentRefs"] == [{"name": "public", "namespace": "gateways"}]
    assert route["spec"]["hostnames"] == [hostname]
    [rule] = route["spec"]["rules"]
    assert rule["backendRefs"] == [backend]
    services = {item["metadata"]["name"]: item["spec"]["ports"] for item in of_kind(manifests, "Service")}
    assert [item["port"] for item in services[backend["name"]]] == [backend["port"]]


def test_route_of_streams_has_the_time_that_they_take(helm: Helm) -> None:
    [route] = of_kind(helm.render(CASES["routes of the Gateway API"]), "HTTPRoute")
    assert route["spec"]["rules"][0]["timeouts"] == {"request": "600s"}


def test_grpc_route_leads_to_calls_and_health_but_not_to_reflection(helm: Helm) -> None:
    [route] = of_kind(helm.render(CASES["routes of the Gateway API"]), "GRPCRoute")
    assert [item["method"] for item in route["spec"]["rules"][0]["matches"]] == [
        {"service": "trivium.v1.OrchestratorService"},
        {"service": "grpc.health.v1.Health"},
    ]


def test_nothing_leads_outside_by_default(helm: Helm) -> None:
    manifests = helm.render(values(apis=(GATEWAY_API,)))
    assert not {item["kind"] for item in manifests} & {"Ingress", "HTTPRoute", "GRPCRoute"}
    assert {item["spec"].get("type", "ClusterIP") for item in of_kind(manifests, "Service")} == {"ClusterIP"}
