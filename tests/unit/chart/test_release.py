"""The release as a whole: lint, `helm test`, notes, values and their schema."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic_settings import BaseSettings
from typer.testing import CliRunner

from services.cli.__main__ import app
from tests.unit.chart.harness.helm import CHART, NAMESPACE, PRESETS, RELEASE, SECURE, Helm, named, of_kind, values
from tests.unit.chart.test_every_case import SETTINGS

# Those that follow from where a pod runs, and the one that comes from a Secret.
CHARTS_OWN = {
    "host", "port", "portFile", "replicaId", "metricsPort", "slm", "router", "llm", "orchestrator", "redisUrl",
    "redisPassword", "redisCaFile", "tlsCertFile", "tlsKeyFile", "tlsClientCaFile", "tlsCaFile", "tlsServerName",
    "healthPort", "keysFile", "httpsCertFile", "httpsKeyFile", "httpsClientCaFile", "sampleDir",
}  # fmt: skip


def _schema() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    return found


def _camel(name: str) -> str:
    head, *tail = name.split("_")
    return head + "".join(part.capitalize() for part in tail)


@pytest.mark.parametrize("preset", ["values", *PRESETS, SECURE])
def test_lint_is_strict_and_silent(helm: Helm, preset: str) -> None:
    # Which APIs a cluster has can't be told to lint.
    certificates = "tls.secretName=shared,tls.certManager.issuerRef.name="
    settings = ["--set", "router.settings.checkpoint=/models/r", "--set", certificates]
    kinds = [f"{name}.autoscaling.kind=none" for name in SETTINGS]
    text = helm.run(
        "lint", "--strict", "--quiet", str(CHART), "--values", str(CHART / f"{preset}.yaml"), *settings,
        *(part for kind in kinds for part in ("--set", kind)),
    )  # fmt: skip
    assert "[WARNING]" not in text
    assert "[ERROR]" not in text


def test_test_pod_runs_a_command_that_exists_against_the_service(helm: Helm) -> None:
    manifests = helm.render(values("test.prompt=Why?"))
    pod = named(manifests, "Pod", "test")
    assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
    [container] = pod["spec"]["containers"]
    command, *arguments = container["command"][1:] + container["args"]
    address = arguments[arguments.index("--address") + 1]
    name, port = address.split(":")
    service = named(manifests, "Service", "orchestrator")
    assert (name, int(port)) == (service["metadata"]["name"], service["spec"]["ports"][0]["port"])
    shown = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200", "TERM": "dumb"}).output
    assert all(option in shown for option in arguments if option.startswith("--"))


def test_notes_name_the_next_commands(helm: Helm) -> None:
    text = helm.run("install", RELEASE, str(CHART), "--namespace", NAMESPACE, "--dry-run=client")
    notes = text[text.index("NOTES:") :]
    for command in (
        f"kubectl -n {NAMESPACE} rollout status deployment/demo-trivium-gateway",
        f"helm test -n {NAMESPACE} {RELEASE}",
        f"kubectl -n {NAMESPACE} port-forward service/demo-trivium-orchestrator 50050",
        "trivium generate --address 127.0.0.1:50050",
        f"http://demo-trivium-gateway.{NAMESPACE}.svc/v1 ",
        f"kubectl -n {NAMESPACE} port-forward service/demo-trivium-gateway 8000:80",
        "curl http://127.0.0.1:8000/v1/chat/completions",
    ):
        assert command in notes


def test_notes_without_a_gateway_speak_of_grpc_alone(helm: Helm) -> None:
    text = helm.run("install", RELEASE, str(CHART), "--dry-run=client", "--set", "gateway.enabled=false")
    notes = text[text.index("NOTES:") :]
    assert "rollout status deployment/demo-trivium-orchestrator" in notes
    assert "curl" not in notes


OPEN, PLAIN = "THE DOOR IS OPEN", "NOTHING IS ENCRYPTED"
HTTP, REDIS = "The gateway itself speaks plain HTTP", "The way to the bundled Redis is not encrypted"
WAY_OUT = "values-secure.yaml has what closes it"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ((), {OPEN, PLAIN, WAY_OUT}),
        (("keys.secretName=keys",), {PLAIN, WAY_OUT}),
        (("tls.enabled=true,tls.secretName=shared",), {OPEN, HTTP, REDIS, WAY_OUT}),
        (("keys.secretName=keys,tls.enabled=true,tls.secretName=shared",), {HTTP, REDIS}),
        (("keys.secretName=keys,tls.enabled=true,tls.secretName=shared,gateway.tls.enabled=true",), {REDIS}),
        (
            ("keys.secretName=keys,tls.enabled=true,tls.secretName=shared,redis.mode=none,gateway.enabled=false",),
            set(),
        ),
    ],
)
def test_notes_say_what_is_open(helm: Helm, settings: tuple[str, ...], said: set[str]) -> None:
    text = helm.run(
        "install", RELEASE, str(CHART), "--dry-run=client", *(part for item in settings for part in ("--set", item))
    )
    notes = text[text.index("NOTES:") :]
    assert {warning for warning in (OPEN, PLAIN, HTTP, REDIS, WAY_OUT) if warning in notes} == said


def test_notes_say_whom_the_open_door_is_open_to(helm: Helm) -> None:
    install = ("install", RELEASE, str(CHART), "--dry-run=client")
    assert "whoever reaches these addresses is served" in helm.run(*install)
    some = ("--set", "networkPolicy.clients[0].podSelector.matchLabels.app=mine")
    assert "whom networkPolicy.clients lets through is served" in helm.run(*install, *some)


def test_notes_say_where_to_read_how_a_router_gets_into_the_volume(helm: Helm) -> None:
    install = ("install", RELEASE, str(CHART), "--dry-run=client", "--set", "modelCache.kind=claim")
    hint = '"Models, router, token" in the chart\'s README.md'
    assert hint in helm.run(*install, "--set", "router.settings.checkpoint=/models/routers/mine")
    assert hint not in helm.run(*install)
    assert "\n## Models, router, token\n" in (CHART / "README.md").read_text(encoding="utf-8")


def test_every_object_is_in_the_releases_namespace_with_its_labels(helm: Helm) -> None:
    for manifest in helm.render(values("labeler.enabled=true,modelCache.kind=claim")):
        metadata = manifest["metadata"]
        assert metadata["namespace"] == NAMESPACE
        assert metadata["labels"]["app.kubernetes.io/instance"] == RELEASE


def test_reference_preset_needs_no_claim_and_no_gpu(helm: Helm) -> None:
    manifests = helm.render(values(preset="values-reference"))
    assert of_kind(manifests, "PersistentVolumeClaim") == []
    assert "nvidia.com/gpu" not in json.dumps(manifests)


@pytest.mark.parametrize("component", SETTINGS)
def test_schema_offers_the_settings_of_the_process(component: str) -> None:
    settings_type: type[BaseSettings] = SETTINGS[component]
    offered = _schema()["properties"][component]["properties"]["settings"]["properties"]
    assert set(offered) == {_camel(name) for name in settings_type.model_fields} - CHARTS_OWN


def test_schema_refuses_unknown_keys_in_every_object_that_it_describes() -> None:
    def objects(schema: Any, path: str) -> list[tuple[str, dict[str, Any]]]:
        found = []
        if isinstance(schema, dict):
            if "properties" in schema:
                found.append((path, schema))
            for key, value in schema.items():
                found += objects(value, f"{path}/{key}")
        return found

    open_ones = [path for path, item in objects(_schema(), "") if item.get("additionalProperties") is not False]
    assert open_ones == []


def test_values_name_every_key_of_the_schema_but_optional_settings() -> None:
    defaults: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    schema = _schema()
    properties = schema["properties"]
    assert set(defaults) == set(properties) - {"global"}
    for name in defaults.keys() & {*SETTINGS, "redis", "labeler", "images"}:
        assert set(defaults[name]) == set(properties[name]["properties"]), name


def test_every_value_has_a_comment() -> None:
    text = (CHART / "values.yaml").read_text(encoding="utf-8")
    lines = text.splitlines()
    root = yaml.compose(text)
    assert isinstance(root, yaml.MappingNode)
    bare = [name for name, line in _value_lines(root, _schema(), "") if not _has_comment(lines, line)]
    assert bare == []


def _value_lines(node: yaml.MappingNode, schema: dict[str, Any], path: str) -> Iterator[tuple[str, int]]:
    """Path and line number of every value; what the schema describes key by key is taken apart."""
    for key, value in node.value:
        name = f"{path}.{key.value}" if path else key.value
        described = schema["properties"][key.value]
        if "$ref" in described:
            described = _schema()["definitions"][described["$ref"].rpartition("/")[2]]
        if "properties" in described and key.value != "resources":
            yield from _value_lines(value, described, name)
        else:
            yield name, key.start_mark.line


def _has_comment(lines: list[str], index: int) -> bool:
    above = list(takewhile(lambda line: line.lstrip().startswith("#"), reversed(lines[:index])))
    return any(line.lstrip().startswith("# -- ") for line in above)


def test_chart_has_the_version_of_the_package() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    pyproject = (Path(CHART).parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    assert f'version = "{chart["appVersion"]}"' in pyproject
    assert chart["version"] == chart["appVersion"]
