"""What a cluster tells of a release: its workloads, pods, claims and what they were complained about.

Owns the calls of the API server, all of which only read. Draws no conclusions: `kube_findings` does.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from kubernetes import client
from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError

from labeler_jobs.jobs.connection import ClusterError, connect
from services.cli.errors import CliError

Object = dict[str, Any]

INSTANCE = "app.kubernetes.io/instance"
COMPONENT = "app.kubernetes.io/component"
_TIMEOUT_S = (10, 60)
_LOG_LINES = 200
_KEDA = "keda.sh"


@dataclass
class Survey:
    """A release as the API server shows it, in the server's own words.

    Attributes:
        namespace: Where it is.
        release: Its name.
        workloads: Its Deployments and StatefulSets.
        pods: Its pods.
        jobs: Its labelling Jobs.
        claims: Its PersistentVolumeClaims.
        storage_classes: Names of the cluster's StorageClasses; None where they may not be read.
        default_storage_class: Name of the default one; empty without one.
        scaled: KEDA's ScaledObjects of the release.
        warnings: The last complaint about an object, by its uid.
        logs: The end of the log of each pod that runs and isn't ready, by the pod's name.
    """

    namespace: str
    release: str
    workloads: list[Object] = field(default_factory=list)
    pods: list[Object] = field(default_factory=list)
    jobs: list[Object] = field(default_factory=list)
    claims: list[Object] = field(default_factory=list)
    storage_classes: list[str] | None = None
    default_storage_class: str = ""
    scaled: list[Object] = field(default_factory=list)
    warnings: dict[str, str] = field(default_factory=dict)
    logs: dict[str, str] = field(default_factory=dict)


def survey(namespace: str | None, release: str, context: str | None) -> Survey:
    """Reads everything of a release.

    Args:
        namespace: Where it is; None for the namespace of the context.
        release: Its name.
        context: A context of KUBECONFIG; None takes the current one.

    Raises:
        CliError: The cluster can't be asked, or doesn't let this user read.
    """
    try:
        api, usual = connect(context)
    except ClusterError as error:
        raise CliError(str(error)) from error
    reader = _Reader(api, namespace or usual)
    selector = f"{INSTANCE}={release}"
    core, apps = client.CoreV1Api(api), client.AppsV1Api(api)
    found = Survey(reader.namespace, release)
    for kind, call in (
        ("deployments", apps.list_namespaced_deployment),
        ("statefulsets", apps.list_namespaced_stateful_set),
    ):
        found.workloads += reader.items(kind, call, label_selector=selector)
    found.pods = reader.items("pods", core.list_namespaced_pod, label_selector=selector)
    found.jobs = reader.items("jobs", client.BatchV1Api(api).list_namespaced_job, label_selector=selector)
    found.claims = reader.items(
        "persistentvolumeclaims", core.list_namespaced_persistent_volume_claim, label_selector=selector
    )
    events = reader.items("events", core.list_namespaced_event, field_selector="type=Warning")
    found.warnings = _last_warnings(events)
    found.scaled = reader.scaled(selector)
    classes = reader.storage_classes()
    if classes is not None:
        found.storage_classes, found.default_storage_class = classes
    waiting = [pod for pod in found.pods if runs(pod) and not is_ready(pod)]
    found.logs = {pod["metadata"]["name"]: reader.log(pod) for pod in waiting}
    return found


def is_ready(pod: Object) -> bool:
    """Whether a pod serves."""
    conditions = pod["status"].get("conditions", [])
    return any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)


def runs(pod: Object) -> bool:
    """Whether a pod's process runs."""
    return any("running" in item.get("state", {}) for item in pod["status"].get("containerStatuses", []))


class _Reader:
    def __init__(self, api: client.ApiClient, namespace: str) -> None:
        self.namespace = namespace
        self._api = api

    def items(self, kind: str, call: Callable[..., Any], **selector: str) -> list[Object]:
        return list(self._read(kind, call, namespace=self.namespace, **selector)["items"])

    def scaled(self, selector: str) -> list[Object]:
        """KEDA's objects; none where it isn't installed."""
        groups = self._read("apis", client.ApisApi(self._api).get_api_versions)["groups"]
        version = {group["name"]: group["preferredVersion"]["version"] for group in groups}.get(_KEDA)
        if version is None:
            return []
        call = client.CustomObjectsApi(self._api).list_namespaced_custom_object
        return self.items(
            "scaledobjects.keda.sh", call, group=_KEDA, version=version, plural="scaledobjects",
            label_selector=selector,
        )  # fmt: skip

    def storage_classes(self) -> tuple[list[str], str] | None:
        """Names of the StorageClasses, and of the default one; None where this user may not read them."""
        try:
            listed = self._ask(client.StorageV1Api(self._api).list_storage_class)["items"]
        except ApiException:
            # They belong to the whole cluster, which who owns a namespace often may not see.
            return None
        default = "storageclass.kubernetes.io/is-default-class"
        defaults = [item for item in listed if item["metadata"].get("annotations", {}).get(default) == "true"]
        names = [item["metadata"]["name"] for item in listed]
        return names, defaults[0]["metadata"]["name"] if defaults else ""

    def log(self, pod: Object) -> str:
        try:
            response = client.CoreV1Api(self._api).read_namespaced_pod_log(
                name=pod["metadata"]["name"],
                namespace=self.namespace,
                tail_lines=_LOG_LINES,
                _preload_content=False,
                _request_timeout=_TIMEOUT_S,
            )
        except ApiException:
            # The container may have ended meanwhile, and reading logs is a right of its own.
            return ""
        return bytes(response.data).decode(errors="replace")  # type: ignore[attr-defined]

    def _read(self, kind: str, call: Callable[..., Any], **arguments: str) -> Any:
        host = self._api.configuration.host
        try:
            return self._ask(call, **arguments)
        except ApiException as error:
            if error.status == 403:
                raise CliError(
                    f"no right to list {kind} in the namespace {self.namespace}: let someone who may run `kubectl -n "
                    f"{self.namespace} create rolebinding trivium-view --clusterrole=view --user=YOU`, or name "
                    "another namespace with --namespace"
                ) from error
            if error.status == 401:
                raise CliError(
                    f"the API server {host} doesn't know these credentials, or they ran out: log in again"
                ) from error
            raise CliError(f"the API server {host} doesn't list {kind}: {error.status} {error.reason}") from error
        except (HTTPError, OSError, json.JSONDecodeError) as error:
            raise CliError(
                f"the API server {host} doesn't answer ({error}): is KUBECONFIG right, and is the cluster up?"
            ) from error

    def _ask(self, call: Callable[..., Any], **arguments: str) -> Any:
        return json.loads(call(**arguments, _preload_content=False, _request_timeout=_TIMEOUT_S).data)


def _last_warnings(events: list[Object]) -> dict[str, str]:
    in_order = sorted(events, key=lambda event: str(event.get("lastTimestamp") or event.get("eventTime")))
    return {event["involvedObject"]["uid"]: str(event.get("message", "")) for event in in_order}
