"""What an autoscaler of the chart sees, and what it does: demand, target and replicas of a component."""

from __future__ import annotations

import json
import urllib.parse
import urllib.request
from dataclasses import dataclass
from typing import Any

from kubernetes import client

from tests.cluster.harness.release import NAME


@dataclass(frozen=True, slots=True)
class PodCount:
    """Pods of a component: as many as its autoscaler wants, and those that serve."""

    wanted: int
    ready: int


class Prometheus:
    """Prometheus, by its address."""

    def __init__(self, address: str) -> None:
        self._address = address

    def value(self, query: str) -> float:
        """The value of a query; 0 where there is nothing."""
        url = f"http://{self._address}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
        with urllib.request.urlopen(url, timeout=30) as response:
            found: list[Any] = json.load(response)["data"]["result"]
        return float(found[0]["value"][1]) if found else 0.0


class ScaledComponent:
    """A component that KEDA scales.

    Args:
        namespace: Where the release is.
        component: "slm", "llm", ...

    Attributes:
        component: Its name.
        query: What Prometheus is asked for its demand.
        per_replica: The demand that one replica is meant for.
    """

    def __init__(self, namespace: str, component: str) -> None:
        scaled: Any = client.CustomObjectsApi().get_namespaced_custom_object(
            "keda.sh", "v1alpha1", namespace, "scaledobjects", f"{NAME}-{component}"
        )
        [trigger] = scaled["spec"]["triggers"]
        self.component = component
        self.query: str = trigger["metadata"]["query"]
        self.per_replica = float(trigger["metadata"]["threshold"])
        self._namespace = namespace
        self._apps = client.AppsV1Api()

    def pods(self) -> PodCount:
        """Its pods at the moment."""
        deployment = self._apps.read_namespaced_deployment(f"{NAME}-{self.component}", self._namespace)
        assert deployment.spec
        assert deployment.status
        return PodCount(deployment.spec.replicas or 0, deployment.status.ready_replicas or 0)
