"""Rules that hold whatever the values are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic_settings import BaseSettings

from router_service.serving.settings import RouterSettings
from services.common.serving.settings import read_settings
from services.gateway.settings import GatewaySettings
from services.llm.settings import LlmSettings
from services.orchestrator.settings import OrchestratorSettings
from services.slm.settings import SlmSettings
from tests.certificates import Authority
from tests.unit.chart.harness.cases import CASES, HOST_PATH, NO_ROUTER
from tests.unit.chart.harness.helm import Helm, Manifest, container, of_kind, pods
from tests.unit.chart.harness.kubernetes_schemas import CUSTOM, problems
from tests.unit.chart.harness.pod_security import violations

SETTINGS: dict[str, type[BaseSettings]] = {
    "slm": SlmSettings,
    "router": RouterSettings,
    "llm": LlmSettings,
    "orchestrator": OrchestratorSettings,
    "gateway": GatewaySettings,
}
FOREIGN = {"HF_HOME", "HF_HUB_OFFLINE", "HF_TOKEN", "REDIS_PASSWORD", "NCCL_DEBUG", "OMP_NUM_THREADS"}

ABSENT = {"no gateway": ("gateway",), **{case: ("router",) for case in CASES if NO_ROUTER in CASES[case].settings}}
"""Components that a case is without."""

KEYS = f"tenants: {{mine: {{}}}}\nkeys: [{{tenant: mine, sha256: {'ab' * 32}}}]\n"

every_case = pytest.mark.parametrize("case", CASES)


@pytest.fixture(scope="session")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like /etc/trivium, where the chart mounts Secrets: settings look at what the files hold."""
    folder = tmp_path_factory.mktemp("trivium")
    for name in ("tls", "https", "client-ca", "redis"):
        Authority().issue(folder / name)
    (folder / "keys").mkdir()
    for name in ("keys", "keys.yaml"):
        (folder / "keys" / name).write_text(KEYS, encoding="utf-8")
    return folder


@every_case
def test_objects_fit_the_schemas_of_kubernetes(helm: Helm, case: str) -> None:
    assert _problems(helm, case, "1.36") == []


@pytest.mark.parametrize("case", ["r1", "labeler", "hpa on CPUs", "placement"])
def test_objects_fit_the_schemas_of_the_oldest_kubernetes(helm: Helm, case: str) -> None:
    assert _problems(helm, case, "1.30") == []


@every_case
def test_objects_have_names_of_their_own(helm: Helm, case: str) -> None:
    names = [(item["kind"], item["metadata"]["name"]) for item in helm.render(CASES[case])]
    assert len(names) == len(set(names))
    assert all(re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", name) for _, name in names)


@every_case
def test_pods_are_admitted_by_the_restricted_level(helm: Helm, case: str) -> None:
    found = {name: violations(spec) for name, spec in pods(helm.render(CASES[case]))}
    assert found
    assert all(problems == [] for problems in found.values()), found


def test_pods_with_a_host_path_are_not_admitted_for_that_alone(helm: Helm) -> None:
    found = {problem for _, spec in pods(helm.render(HOST_PATH)) for problem in violations(spec)}
    assert found == {"volume models is a hostPath"}


@every_case
def test_containers_write_nowhere_but_in_volumes_and_have_a_memory_limit(helm: Helm, case: str) -> None:
    for name, spec in pods(helm.render(CASES[case])):
        assert spec["automountServiceAccountToken"] is False, name
        assert spec["enableServiceLinks"] is False, name
        for item in spec["containers"]:
            assert item["securityContext"]["readOnlyRootFilesystem"] is True, name
            assert "memory" in item["resources"]["limits"], name
            mounts = [mount["name"] for mount in item["volumeMounts"]]
            assert set(mounts) == {volume["name"] for volume in spec["volumes"]}, name


@every_case
def test_containers_start_without_a_shell(helm: Helm, case: str) -> None:
    for name, spec in pods(helm.render(CASES[case])):
        for item in spec["containers"]:
            assert item["command"][0] in ("python3", "redis-server", "trivium"), name
            hooks = [item.get(key, {}) for key in ("startupProbe", "readinessProbe", "livenessProbe")]
            assert not any("exec" in hook for hook in [*hooks, *item.get("lifecycle", {}).values()]), name


@pytest.mark.parametrize(
    ("case", "component"),
    [(case, name) for case in CASES for name in SETTINGS if name not in ABSENT.get(case, ())],
)
def test_variables_are_settings_that_the_process_accepts(
    helm: Helm, case: str, component: str, secrets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix = f"TRIVIUM_{component.upper()}_"
    variables = container(helm.render(CASES[case]), component)["env"]
    names = [item["name"] for item in variables]
    assert len(names) == len(set(names))
    assert {name for name in names if not name.startswith(prefix)} <= FOREIGN
    found = {name: value for name, value in _values(variables).items() if name.startswith(prefix)}
    environ = {name: value.replace("/etc/trivium", str(secrets)) for name, value in found.items()}
    assert {name.removeprefix(prefix).lower() for name in environ} <= set(SETTINGS[component].model_fields)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    read_settings(SETTINGS[component], prog=component, example="", argv=[], environ=environ)


@every_case
def test_scraped_pods_say_where_and_serve_there(helm: Helm, case: str) -> None:
    for deployment in of_kind(helm.render(CASES[case]), "Deployment"):
        pod = deployment["spec"]["template"]
        [item] = pod["spec"]["containers"]
        ports = {port["name"]: str(port["containerPort"]) for port in item["ports"]}
        served = ports.get("metrics", ports.get("health", ports.get("http")))
        assert pod["metadata"]["annotations"].get("prometheus.io/port", served) == served


def _problems(helm: Helm, case: str, version: str) -> list[str]:
    manifests = [item for item in helm.render(CASES[case]) if not item["apiVersion"].startswith(CUSTOM)]
    return [problem for item in manifests for problem in problems(item, version)]


def _values(variables: list[Manifest]) -> dict[str, str]:
    """The values as a container sees them; those from Secrets are made up."""
    found: dict[str, str] = {}
    for item in variables:
        value: Any = item.get("value", "rediss://10.0.0.1:6379/0")
        found[item["name"]] = re.sub(r"\$\((\w+)\)", lambda match: found[match[1]], value)
    return found
