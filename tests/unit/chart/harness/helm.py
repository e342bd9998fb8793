"""Renders the chart as Helm does, without a cluster.

Owns the command line and the remembered renderings: tests that look at the same values share one.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parents[4] / "charts" / "trivium"
PRESETS = ("values-reference", "values-r1-1.5b-32b", "values-qwen3-0.6b-32b")
SECURE = "values-secure"
"""Goes beside one of the others."""
KEDA = "keda.sh/v1alpha1"
PROMETHEUS_OPERATOR = "monitoring.coreos.com/v1"
GATEWAY_API = "gateway.networking.k8s.io/v1"
CERT_MANAGER = "cert-manager.io/v1"
RELEASE, NAMESPACE = "demo", "routing"

Manifest = dict[str, Any]


class Refused(Exception):
    """Helm didn't render these values. The message is Helm's."""


@dataclass(frozen=True)
class Values:
    """What a chart is rendered with.

    Args:
        preset: Name of a values file of the chart.
        settings: Assignments as `--set` takes them.
        text: A values file of its own, as YAML.
        apis: API versions that the cluster has beside Kubernetes' own.
    """

    preset: str = ""
    settings: tuple[str, ...] = ()
    text: str = ""
    apis: tuple[str, ...] = ()


def values(*settings: str, preset: str = "", text: str = "", apis: tuple[str, ...] = ()) -> Values:
    """Shortens `Values(settings=(…))`."""
    return Values(preset, settings, text, apis)


@dataclass
class Helm:
    """Helm on this machine."""

    binary: str
    _rendered: dict[Values, list[Manifest] | Refused] = field(default_factory=dict)

    def render(self, asked: Values) -> list[Manifest]:
        """The objects that an installation would create, hooks included.

        Raises:
            Refused: The values are wrong.
        """
        if asked not in self._rendered:
            try:
                text = self._template(asked)
                # Ten times as fast as the loader in Python, and as safe.
                manifests = yaml.load_all(text, Loader=yaml.CSafeLoader)
                self._rendered[asked] = [manifest for manifest in manifests if manifest]
            except Refused as refusal:
                self._rendered[asked] = refusal
        found = self._rendered[asked]
        if isinstance(found, Refused):
            raise found
        return found

    def run(self, *arguments: str, stdin: str = "") -> str:
        """Runs a command of Helm.

        Raises:
            Refused: It failed.
        """
        done = subprocess.run([self.binary, *arguments], input=stdin, capture_output=True, text=True, timeout=60)
        if done.returncode:
            raise Refused(done.stderr)
        return done.stdout

    def _template(self, asked: Values) -> str:
        arguments = ["template", RELEASE, str(CHART), "--namespace", NAMESPACE]
        if asked.preset:
            arguments += ["--values", str(CHART / f"{asked.preset}.yaml")]
        if asked.text:
            arguments += ["--values", "-"]
        for setting in asked.settings:
            arguments += ["--set", setting]
        for api in asked.apis:
            arguments += ["--api-versions", api]
        return self.run(*arguments, stdin=asked.text)


def named(manifests: list[Manifest], kind: str, component: str) -> Manifest:
    """The one object of this kind that is named after a component, e.g. ("Deployment", "slm")."""
    name = f"{RELEASE}-trivium-{component}"
    [found] = [item for item in manifests if item["kind"] == kind and item["metadata"]["name"] == name]
    return found


def of_kind(manifests: list[Manifest], kind: str) -> list[Manifest]:
    """All objects of a kind."""
    return [item for item in manifests if item["kind"] == kind]


def pod_spec(manifest: Manifest) -> Manifest | None:
    """The spec of the pods that an object makes; None if it makes none."""
    match manifest["kind"]:
        case "Pod":
            spec: Manifest = manifest["spec"]
        case "Deployment" | "StatefulSet":
            spec = manifest["spec"]["template"]["spec"]
        case "PodTemplate":
            spec = manifest["template"]["spec"]
        case _:
            return None
    return spec


def pods(manifests: list[Manifest]) -> list[tuple[str, Manifest]]:
    """Name and pod spec of every object that makes pods."""
    found = [(f"{item['kind']} {item['metadata']['name']}", pod_spec(item)) for item in manifests]
    return [(name, spec) for name, spec in found if spec is not None]


def container(manifests: list[Manifest], component: str) -> Manifest:
    """The container of a service."""
    [found] = named(manifests, "Deployment", component)["spec"]["template"]["spec"]["containers"]
    only: Manifest = found
    return only


def environment(manifests: list[Manifest], component: str) -> dict[str, str]:
    """The variables of a service's container that have a value."""
    return {item["name"]: item["value"] for item in container(manifests, component)["env"] if "value" in item}
