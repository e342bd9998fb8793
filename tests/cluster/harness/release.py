"""The chart, installed in a namespace.

Owns what every test installs: the reference preset with the images under test, and what the test adds.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

from tests.cluster.harness.commands import run

CHART = Path(__file__).parents[3] / "charts" / "trivium"
PRESET = CHART / "values-reference.yaml"
NAME = "trivium"
"""The release's name, which is also the first part of its objects' names."""
COMPONENTS = ("slm", "router", "llm", "orchestrator", "gateway", "redis")
PORTS = {"orchestrator": 50050, "slm": 50051, "llm": 50052, "router": 50053, "redis": 6379, "gateway": 8000}
HTTP_PORT = 80
"""Of the gateway's Service."""


@dataclass(frozen=True)
class Release:
    """A release of the chart.

    Args:
        helm: The binary.
        namespace: Where it is installed.
        images: Assignments that name the images under test, as `--set` takes them.
    """

    helm: str
    namespace: str
    images: tuple[str, ...]

    def install(self, *settings: str, text: str = "", timeout_s: int = 300, wait: bool = True) -> None:
        """Installs or upgrades, and waits until every pod is ready.

        Args:
            settings: Assignments as `--set` takes them.
            text: A values file of the test's own, as YAML.
            timeout_s: Seconds to wait at most.
            wait: Whether to wait.

        Raises:
            CommandFailed: Helm refused, or it took too long.
        """
        arguments = ["upgrade", "--install", NAME, str(CHART), "--namespace", self.namespace]
        arguments += ["--values", str(PRESET), "--timeout", f"{timeout_s}s"]
        if text:
            arguments += ["--values", "-"]
        for setting in (*self.images, *settings):
            arguments += ["--set", setting]
        if wait:
            arguments.append("--wait")
        run(self.helm, *arguments, stdin=text, timeout_s=timeout_s + 60)

    def test(self, timeout_s: int = 180) -> str:
        """Runs `helm test`; returns what it wrote.

        Raises:
            CommandFailed: The test failed.
        """
        return run(self.helm, "test", NAME, "--namespace", self.namespace, "--timeout", f"{timeout_s}s", "--logs")

    def uninstall(self) -> None:
        """Uninstalls it, if it is installed, and waits until its pods are gone, too."""
        arguments = ["--namespace", self.namespace, "--ignore-not-found"]
        run(self.helm, "uninstall", NAME, *arguments, "--wait", "--cascade", "foreground")


def image_settings(registry: str, tag: str) -> tuple[str, ...]:
    """Assignments for the images of a registry and a tag; empty ones leave the chart's own."""
    given = {"images.registry": registry, "images.tag": tag}
    return tuple(f"{name}={value}" for name, value in given.items() if value)


def light_image(registry: str, tag: str) -> str:
    """The name of the light image of a registry and a tag, as the chart makes it."""
    app_version = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))["appVersion"]
    return f"{registry.rstrip('/')}/trivium-light:{tag or app_version}".lstrip("/")
