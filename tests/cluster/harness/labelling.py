"""Labelling on a cluster: the labeler's part of the chart, `trivium label submit` as a process, and what it left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kubernetes import client

from tests.cluster.harness import pods
from tests.cluster.harness.commands import run
from tests.cluster.harness.release import CHART, NAME, PRESET

GPU = "nvidia.com/gpu"
TIMEOUT_S = 900.0
_POLL_S = 0.2
_PARTS = ("podtemplate", "role", "serviceaccount", "networkpolicy", "persistentvolumeclaim")
_SLEEP = ("python3", "-c", "import time; time.sleep(3600)")
# What two runs that label alike never share: how long they took.
_SUMS = """
import hashlib, pathlib, sys
root = pathlib.Path(sys.argv[1])
for path in sorted(root.rglob("*")):
    if path.is_file() and not path.name.endswith("cost.json"):
        print(path.relative_to(root), hashlib.sha256(path.read_bytes()).hexdigest())
"""
_REMOVE = "import pathlib, sys; [pathlib.Path(path).unlink() for path in sys.argv[1:]]"


class Command:
    """A `trivium` process.

    Args:
        arguments: After `trivium`.
        kubeconfig: Whom it acts as.
        log: Where its stdout and stderr go.
    """

    def __init__(self, arguments: list[str], kubeconfig: Path, log: Path) -> None:
        self._log = log
        # In a background job SIGINT is ignored, and children would inherit that.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with log.open("wb") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "services.cli", *arguments],
                env={**os.environ, "KUBECONFIG": str(kubeconfig), "OMP_NUM_THREADS": "1", "COLUMNS": "200"},
                stdout=file,
                stderr=subprocess.STDOUT,
            )

    @property
    def written(self) -> str:
        return self._log.read_text(errors="replace")

    def await_line(self, text: str) -> None:
        """Waits until it has written this."""
        deadline = time.monotonic() + TIMEOUT_S
        while text not in self.written:
            assert self._process.poll() is None, self.written
            assert time.monotonic() < deadline, self.written
            time.sleep(_POLL_S)

    def interrupt(self) -> None:
        """Presses Ctrl-C."""
        self._process.send_signal(signal.SIGINT)

    def end(self) -> int:
        """Waits until it ends; returns its exit code."""
        return self._process.wait(TIMEOUT_S)

    def stop(self) -> None:
        """Ends it if it runs."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()


@dataclass
class Labeler:
    """The labeler of a release in a namespace, and whom it lets submit.

    Args:
        kube: The core API.
        kubectl: The binary.
        namespace: Where it is.
        image: The image of its pods.
        admin: KUBECONFIG of the tests.
        submitter: KUBECONFIG of an account that the Role is bound to, and nothing else.
        stranger: KUBECONFIG of an account without any rights.
        directory: For logs.
    """

    kube: client.CoreV1Api
    kubectl: str
    namespace: str
    image: str
    admin: Path
    submitter: Path
    stranger: Path
    directory: Path

    @contextmanager
    def submit(self, *arguments: str, as_whom: Path | None = None) -> Iterator[Command]:
        """Runs `trivium label submit`, by default as the account that the Role is bound to."""
        log = self.directory / f"{time.monotonic_ns()}.log"
        command = ["label", "submit", "--namespace", self.namespace, *arguments]
        started = Command(command, as_whom or self.submitter, log)
        try:
            yield started
        finally:
            started.stop()

    def jobs(self, stage: str, only_unfinished: bool = False) -> list[client.V1Job]:
        """Jobs of a stage, the newest last."""
        selector = f"trivium/stage={stage}" if stage else "trivium/stage"
        found = client.BatchV1Api().list_namespaced_job(self.namespace, label_selector=selector).items
        if only_unfinished:
            found = [job for job in found if job.status is None or job.status.completion_time is None]
        return sorted(found, key=lambda job: str(job.metadata and job.metadata.creation_timestamp))

    def running(self, stage: str) -> list[client.V1Pod]:
        """Pods of a stage whose container runs."""
        found = self.kube.list_namespaced_pod(self.namespace, label_selector=f"trivium/stage={stage}").items
        return [pod for pod in found if pod.status and pod.status.phase == "Running" and not _is_ending(pod)]

    def sums(self, out: str) -> dict[str, str]:
        """SHA-256 of every file in a folder on the volume of labels, by its path there."""
        return read_sums(self.in_volume(_SUMS, f"/labels/{out}"))

    def remove(self, *paths: str) -> None:
        """Deletes files from the volume of labels."""
        self.in_volume(_REMOVE, *(f"/labels/{path}" for path in paths))

    def in_volume(self, script: str, *arguments: str) -> str:
        """Runs Python in a pod that has the volume of labels; returns what it wrote."""
        pod = pods.bare_pod("look-", self.image, ["python3", "-c", script, *arguments])
        assert pod.spec
        assert pod.spec.containers
        assert pod.spec.security_context
        claim = client.V1PersistentVolumeClaimVolumeSource(claim_name=f"{NAME}-labeler")
        pod.spec.volumes = [client.V1Volume(name="labels", persistent_volume_claim=claim)]
        pod.spec.containers[0].volume_mounts = [client.V1VolumeMount(name="labels", mount_path="/labels")]
        name = pods.name_of(self.kube.create_namespaced_pod(self.namespace, pod))
        run(
            self.kubectl, "-n", self.namespace, "wait", f"pod/{name}", "--timeout=300s",
            "--for=jsonpath={.status.phase}=Succeeded",
        )  # fmt: skip
        return run(self.kubectl, "-n", self.namespace, "logs", name)

    @contextmanager
    def holding_gpus(self, num_left: int) -> Iterator[Callable[[], None]]:
        """Takes all GPUs of the cluster but some.

        Args:
            num_left: How many stay free.

        Yields:
            A function that gives them back before the end.
        """
        held: list[str] = []
        for node, num_free in free_gpus(self.kube).items():
            taken = num_free - min(num_left, num_free)
            num_left -= num_free - taken
            if taken:
                held.append(self._hold(node, taken))

        def give_back() -> None:
            while held:
                pods.delete_at_once(self.kube, self.namespace, held.pop())

        try:
            for name in held:
                pods.await_ready(self.kube, self.namespace, name)
            yield give_back
        finally:
            give_back()

    def _hold(self, node: str, num_gpus: int) -> str:
        pod = pods.bare_pod("holder-", self.image, _SLEEP)
        assert pod.spec
        assert pod.spec.containers
        pod.spec.node_selector = {"kubernetes.io/hostname": node}
        pod.spec.containers[0].resources = client.V1ResourceRequirements(limits={GPU: str(num_gpus)})
        return pods.name_of(self.kube.create_namespaced_pod(self.namespace, pod))


def install(helm: str, kubectl: str, namespace: str, *settings: str, parts: tuple[str, ...] = _PARTS) -> None:
    """Creates the labeler's objects of a release; the services, which labelling doesn't need, are left out."""
    arguments = [arg for part in parts for arg in ("--show-only", f"templates/labeler/{part}.yaml")]
    arguments += [arg for setting in settings for arg in ("--set", setting)]
    text = run(helm, "template", NAME, str(CHART), "--namespace", namespace, "--values", str(PRESET), *arguments)
    run(kubectl, "--namespace", namespace, "apply", "--filename", "-", stdin=text)


def account(kubectl: str, namespace: str, name: str, directory: Path) -> Path:
    """Creates a ServiceAccount without rights; returns a KUBECONFIG that acts as it."""
    run(kubectl, "-n", namespace, "create", "serviceaccount", name)
    token = run(kubectl, "-n", namespace, "create", "token", name, "--duration=2h").strip()
    found: dict[str, Any] = json.loads(run(kubectl, "config", "view", "--raw", "--minify", "-o", "json"))
    found["users"] = [{"name": name, "user": {"token": token}}]
    found["contexts"][0]["context"]["user"] = name
    path = directory / f"{name}.kubeconfig"
    path.write_text(json.dumps(found))
    path.chmod(0o600)
    return path


def free_gpus(kube: client.CoreV1Api) -> dict[str, int]:
    """GPUs that no pod has, by node."""
    plain: Callable[[Any], Any] = client.ApiClient().sanitize_for_serialization
    nodes, taken = plain(kube.list_node().items), plain(kube.list_pod_for_all_namespaces().items)
    free = {node["metadata"]["name"]: int(node["status"]["allocatable"].get(GPU, 0)) for node in nodes}
    for pod in taken:
        node = pod["spec"].get("nodeName")
        if node in free and pod["status"]["phase"] in ("Pending", "Running"):
            limits = [container.get("resources", {}).get("limits", {}) for container in pod["spec"]["containers"]]
            free[node] -= sum(int(limit.get(GPU, 0)) for limit in limits)
    return {node: number for node, number in free.items() if number > 0}


def local_sums(out: Path) -> dict[str, str]:
    """What `Labeler.sums` says about a folder on this machine."""
    return read_sums(run(sys.executable, "-c", _SUMS, str(out)))


def read_sums(written: str) -> dict[str, str]:
    return dict(line.split() for line in written.splitlines())


def _is_ending(pod: client.V1Pod) -> bool:
    return bool(pod.metadata and pod.metadata.deletion_timestamp)
