"""Pods of a release: which there are, and the ways in which they end."""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence

from kubernetes import client

from tests.cluster.harness.commands import CommandFailed, run

READY_TIMEOUT_S = 120.0
_POLL_S = 0.3
# The kernel ends a process that has used more CPU seconds than its limit with SIGKILL. From inside its container no
# other way leads there: signals of its children don't reach process 1.
_KILL_PROCESS_1 = "import resource; resource.prlimit(1, resource.RLIMIT_CPU, (1, 1))"
_ENDED_BY_SIGKILL = 128 + signal.SIGKILL


def of_component(
    api: client.CoreV1Api, namespace: str, component: str, *, ending: bool = False
) -> list[client.V1Pod]:
    """The pods of a component; those that are about to end only where asked for."""
    selector = f"app.kubernetes.io/component={component}"
    pods = api.list_namespaced_pod(namespace, label_selector=selector).items
    return [pod for pod in pods if ending or (pod.metadata and pod.metadata.deletion_timestamp is None)]


def is_ready(pod: client.V1Pod) -> bool:
    """Whether a pod is ready to serve."""
    conditions = (pod.status.conditions if pod.status else None) or []
    return any(condition.type == "Ready" and condition.status == "True" for condition in conditions)


def name_of(pod: client.V1Pod) -> str:
    """A pod's name."""
    assert pod.metadata is not None
    return str(pod.metadata.name)


def await_ready(api: client.CoreV1Api, namespace: str, name: str) -> None:
    """Waits until a pod is ready."""
    deadline = time.monotonic() + READY_TIMEOUT_S
    while not is_ready(api.read_namespaced_pod(name, namespace)):
        assert time.monotonic() < deadline, f"pod {name} isn't ready after {READY_TIMEOUT_S:.0f} s"
        time.sleep(_POLL_S)


def delete_at_once(api: client.CoreV1Api, namespace: str, name: str) -> None:
    """Deletes a pod as `kubectl delete pod --force --grace-period=0` does."""
    api.delete_namespaced_pod(name, namespace, grace_period_seconds=0)


def kill_process(kubectl: str, namespace: str, name: str) -> None:
    """Ends a pod's process with SIGKILL. Its container is started again."""
    try:
        run(kubectl, "--namespace", namespace, "exec", name, "--", "python3", "-c", _KILL_PROCESS_1)
    except CommandFailed as failed:
        # Process 1 takes all others of its container with it, and may be quicker than the one that set the limit.
        if failed.exit_code != _ENDED_BY_SIGKILL:
            raise


def evict(api: client.CoreV1Api, namespace: str, name: str) -> None:
    """Asks for a pod's eviction, as `kubectl drain` does.

    Raises:
        ApiException: 429 where a PodDisruptionBudget doesn't allow it now.
    """
    eviction = client.V1Eviction(metadata=client.V1ObjectMeta(name=name, namespace=namespace))
    api.create_namespaced_pod_eviction(name, namespace, eviction)


def bare_pod(prefix: str, image: str, command: Sequence[str]) -> client.V1Pod:
    """A pod of a test's own, as the Pod Security level `restricted` admits it."""
    container = client.V1Container(
        name="main",
        image=image,
        image_pull_policy="IfNotPresent",
        command=list(command),
        security_context=client.V1SecurityContext(
            allow_privilege_escalation=False,
            capabilities=client.V1Capabilities(drop=["ALL"]),
            read_only_root_filesystem=True,
        ),
    )
    spec = client.V1PodSpec(
        containers=[container],
        restart_policy="Never",
        automount_service_account_token=False,
        enable_service_links=False,
        security_context=client.V1PodSecurityContext(
            run_as_non_root=True, run_as_user=10001, seccomp_profile=client.V1SeccompProfile(type="RuntimeDefault")
        ),
    )
    return client.V1Pod(metadata=client.V1ObjectMeta(generate_name=prefix), spec=spec)
