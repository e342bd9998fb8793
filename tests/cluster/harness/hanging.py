"""Hangs a pod: its processes are alive and silent for a while, and go on.

A container's first process takes no SIGSTOP from inside. The node can send it one, and so can a pod that sees the
node's processes: it runs in a namespace of its own, which lets it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from kubernetes import client
from kubernetes.client.exceptions import ApiException

from tests.cluster.harness import pods
from tests.cluster.harness.namespaces import ANY_POD, new_namespace

STARTED_TIMEOUT_S = 120.0
"""A machine on which much goes on may take long to start a pod."""
_FORBIDDEN = 403
_POLL_S = 0.3
# The name of a process' control group has the UID of its pod in it, with one or the other character in between.
_HANG = """
import os, pathlib, signal, sys, time
uid, seconds = sys.argv[1], float(sys.argv[2])
def is_hers(process):
    try:
        return uid in (process / "cgroup").read_text().replace("_", "-")
    except OSError:
        return False
found = [int(path.name) for path in pathlib.Path("/proc").iterdir() if path.name.isdigit() and is_hers(path)]
assert found, f"no process of pod {uid}"
signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
try:
    for process in found:
        os.kill(process, signal.SIGSTOP)
    time.sleep(seconds)
finally:
    for process in found:
        os.kill(process, signal.SIGCONT)
"""


class Hanger:
    """Hangs pods.

    Args:
        api: The API server's core API.
        namespace: Where pods may see the processes of their node.
        image: An image with Python that the nodes have.
    """

    def __init__(self, api: client.CoreV1Api, namespace: str, image: str) -> None:
        self._api = api
        self._namespace = namespace
        self._image = image

    def hang(self, victim: client.V1Pod, seconds: float) -> None:
        """Stops all processes of a pod, and lets them go on after some seconds; returns then.

        Raises:
            AssertionError: It could not.
        """
        assert victim.metadata
        assert victim.spec
        pod = _pod_that_hangs(self._image, str(victim.metadata.uid), seconds)
        assert pod.spec
        pod.spec.node_name = victim.spec.node_name
        created = self._api.create_namespaced_pod(self._namespace, pod)
        try:
            self._await_end(pods.name_of(created), seconds)
        finally:
            self._api.delete_namespaced_pod(pods.name_of(created), self._namespace)

    def _await_end(self, name: str, seconds: float) -> None:
        deadline = time.monotonic() + STARTED_TIMEOUT_S + seconds
        while (status := self._status(name)).phase != "Succeeded":
            assert status.phase != "Failed", f"pod {name} failed: {status}"
            assert time.monotonic() < deadline, f"pod {name} is {status.phase} still"
            time.sleep(_POLL_S)

    def _status(self, name: str) -> client.V1PodStatus:
        status = self._api.read_namespaced_pod(name, self._namespace).status
        assert status
        return status


@contextmanager
def hanger(api: client.CoreV1Api, image: str) -> Iterator[Hanger]:
    """A hanger with a namespace of its own. Where no pod may see its node's processes, the test is skipped."""
    with new_namespace(api, "hanging", pod_security=ANY_POD) as namespace:
        try:
            api.create_namespaced_pod(namespace, _pod_that_hangs(image, "nobody", 0), dry_run="All")
        except ApiException as error:
            if error.status != _FORBIDDEN:
                raise
            pytest.skip(f"this cluster lets no pod see its node's processes: {error.reason}")
        yield Hanger(api, namespace, image)


def _pod_that_hangs(image: str, uid: str, seconds: float) -> client.V1Pod:
    pod = pods.bare_pod("hang-", image, ["python3", "-c", _HANG, uid, str(seconds)])
    assert pod.spec
    pod.spec.host_pid = True
    pod.spec.security_context = client.V1PodSecurityContext(run_as_user=0)
    [container] = pod.spec.containers
    # What is left are a runtime's usual capabilities, of which KILL is one.
    container.security_context = None
    # A pod that asks for nothing gets nothing on a node that is busy.
    container.resources = client.V1ResourceRequirements(requests={"cpu": "100m", "memory": "32Mi"})
    return pod
