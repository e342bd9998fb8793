"""NetworkPolicies: who may call whom, worked out as a network plugin does."""

from __future__ import annotations

import pytest

from tests.unit.chart.harness.cases import CASES
from tests.unit.chart.harness.helm import NAMESPACE, Helm, Manifest, of_kind, values

STRANGER = "stranger"
PORTS = {"orchestrator": 50050, "slm": 50051, "llm": 50052, "router": 50053, "redis": 6379, "gateway": 8000}
CALLS = {
    ("gateway", "orchestrator"),
    ("orchestrator", "slm"),
    ("orchestrator", "router"),
    ("orchestrator", "llm"),
    ("orchestrator", "redis"),
}
FRONT_DOORS = {"gateway", "orchestrator"}
METRICS_PORTS = {name: 9464 for name in PORTS if name not in ("redis", "gateway")}


def _pods(manifests: list[Manifest]) -> dict[str, dict[str, str]]:
    makers = [item for item in manifests if item["kind"] in ("Deployment", "StatefulSet")]
    labels = [item["spec"]["template"]["metadata"]["labels"] for item in makers]
    return {item["app.kubernetes.io/component"]: item for item in labels} | {STRANGER: {"app": "other"}}


def _selects(selector: Manifest, labels: dict[str, str]) -> bool:
    wanted = selector.get("matchLabels", {})
    expressions = selector.get("matchExpressions", [])
    assert all(item["operator"] == "In" for item in expressions)
    return wanted.items() <= labels.items() and all(labels.get(item["key"]) in item["values"] for item in expressions)


def _peer_is(peer: Manifest, labels: dict[str, str]) -> bool:
    if "ipBlock" in peer:
        return False
    namespace = peer.get("namespaceSelector")
    in_namespace = namespace is None or _selects(namespace, {"kubernetes.io/metadata.name": NAMESPACE})
    return in_namespace and _selects(peer.get("podSelector", {}), labels)


def _allows(policies: list[Manifest], direction: str, own: dict[str, str], other: dict[str, str], port: int) -> bool:
    """Whether a direction of a connection passes the policies that select `own`; all passes where none does."""
    specs = [policy["spec"] for policy in policies]
    chosen = [spec for spec in specs if direction in spec["policyTypes"] and _selects(spec["podSelector"], own)]
    key, peers = ("ingress", "from") if direction == "Ingress" else ("egress", "to")
    return not chosen or any(
        (peers not in rule or any(_peer_is(peer, other) for peer in rule[peers]))
        and port in [item["port"] for item in rule["ports"]]
        for spec in chosen
        for rule in spec[key]
    )


def _graph(manifests: list[Manifest], ports: dict[str, int]) -> set[tuple[str, str]]:
    policies, found = of_kind(manifests, "NetworkPolicy"), _pods(manifests)
    return {
        (source, target)
        for source in found
        for target in found.keys() & ports.keys()
        if source != target
        and _allows(policies, "Egress", found[source], found[target], ports[target])
        and _allows(policies, "Ingress", found[target], found[source], ports[target])
    }


@pytest.mark.parametrize("case", [case for case in CASES if case not in ("no network policies", "another name")])
def test_connections_are_the_edges_of_the_call_graph(helm: Helm, case: str) -> None:
    manifests = helm.render(CASES[case])
    running = _pods(manifests).keys()
    doors = set() if case == "clients of one namespace" else FRONT_DOORS & running
    calls = {(source, target) for source, target in CALLS if {source, target} <= running}
    assert _graph(manifests, PORTS) == calls | {(STRANGER, door) for door in doors}


def test_without_policies_all_connections_pass(helm: Helm) -> None:
    manifests = helm.render(values("networkPolicy.enabled=false"))
    assert of_kind(manifests, "NetworkPolicy") == []
    assert (STRANGER, "llm") in _graph(manifests, PORTS)


def test_ports_beside_grpc_are_closed(helm: Helm) -> None:
    assert _graph(helm.render(values()), dict.fromkeys(PORTS, 22)) == set()


def test_metrics_are_open_to_prometheus_alone(helm: Helm) -> None:
    text = "{metrics: {enabled: true}, networkPolicy: {prometheus: [{podSelector: {matchLabels: {app: other}}}]}}"
    assert _graph(helm.render(values(text=text)), METRICS_PORTS) == {(STRANGER, name) for name in METRICS_PORTS}
    assert _graph(helm.render(values("metrics.enabled=true")), METRICS_PORTS) == set()


@pytest.mark.parametrize(("scrapers", "may"), [("other", True), ("nobody", False)])
def test_prometheus_scrapes_the_gateway_where_clients_are_listed(helm: Helm, scrapers: str, may: bool) -> None:
    clients = "clients: [{podSelector: {matchLabels: {app: mine}}}]"
    text = f"networkPolicy: {{{clients}, prometheus: [{{podSelector: {{matchLabels: {{app: {scrapers}}}}}}}]}}"
    assert ((STRANGER, "gateway") in _graph(helm.render(values(text=text)), PORTS)) == may


@pytest.mark.parametrize("door", sorted(FRONT_DOORS))
def test_test_pods_may_call_where_clients_are_listed(helm: Helm, door: str) -> None:
    policies = of_kind(helm.render(CASES["clients of one namespace"]), "NetworkPolicy")
    [policy] = [item for item in policies if item["metadata"]["name"].endswith(f"clients-to-{door}")]
    [rule] = policy["spec"]["ingress"]
    assert rule["from"][-1]["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "test"


def _egress_blocks(manifests: list[Manifest], component: str) -> list[Manifest]:
    [policy] = [
        item
        for item in of_kind(manifests, "NetworkPolicy")
        if item["metadata"]["name"] == f"demo-trivium-{component}-egress"
    ]
    return [peer["ipBlock"] for rule in policy["spec"]["egress"] for peer in rule.get("to", []) if "ipBlock" in peer]


@pytest.mark.parametrize("component", ["slm", "llm", "orchestrator"])
def test_hub_is_reached_only_by_those_who_load_from_it(helm: Helm, component: str) -> None:
    models = "slm.settings.model=a/b,llm.settings.model=c/d"
    [block] = _egress_blocks(helm.render(values(models)), component)
    assert block["cidr"] == "0.0.0.0/0"
    assert "10.0.0.0/8" in block["except"]
    assert _egress_blocks(helm.render(values(models)), "router") == []
    cached = values(models, "huggingFace.offline=true,modelCache.kind=claim")
    assert _egress_blocks(helm.render(cached), component) == []
    assert _egress_blocks(helm.render(values()), component) == []


def test_empty_lists_of_peers_let_no_one_through(helm: Helm) -> None:
    manifests = helm.render(CASES["no peers"])
    rules = [rule for policy in of_kind(manifests, "NetworkPolicy") for rule in policy["spec"].get("egress", [])]
    assert {item["port"] for rule in rules for item in rule["ports"]} == {PORTS[target] for _, target in CALLS}
    assert _graph(manifests, METRICS_PORTS) == set()


@pytest.mark.parametrize("case", [case for case in CASES if case != "external redis"])
def test_rules_name_their_peers_but_for_clients(helm: Helm, case: str) -> None:
    policies = of_kind(helm.render(CASES[case]), "NetworkPolicy")
    named = [policy for policy in policies if "-clients-to-" not in policy["metadata"]["name"]]
    rules = [rule for policy in named for key in ("ingress", "egress") for rule in policy["spec"].get(key, [])]
    assert all(rule.get("from") or rule.get("to") for rule in rules)


def test_external_redis_is_reached_at_its_port_and_peers(helm: Helm) -> None:
    [block] = _egress_blocks(helm.render(CASES["external redis somewhere"]), "orchestrator")
    assert block == {"cidr": "10.3.0.0/16"}
