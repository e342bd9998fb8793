"""What is wrong with a release on a cluster, a line for each thing, which says what to do.

Owns what counts as wrong. Pure: a survey in, lines out. Replicas that share a fault share a line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from labeler_jobs.jobs.manifest import RUN_LABEL, STAGE_LABEL
from labeler_jobs.jobs.situation import ending, why_ended
from services.cli.doctor.kube_survey import COMPONENT, Object, Survey, is_ready
from services.cli.log_lines import last_serious, one_line

_UNPULLED = ("ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName")
_UNMADE = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError")
# Components whose values aren't those of a service.
_LABELER, _REDIS, _TEST = "labeler", "redis", "test"
_ENDED = ("Succeeded", "Failed")
_GPUS = re.compile(r"Insufficient ([\w.-]+/[\w.-]*\w)")
_SECRET = re.compile(r'secret "([^"]+)" not found')
_KEY = re.compile(r"couldn't find key (\S+) in Secret [^/]+/(\S+)")


def findings(seen: Survey) -> list[str]:
    """Tells what is wrong, the causes before what follows from them."""
    if not seen.workloads:
        return [
            f"no release {seen.release!r} in the namespace {seen.namespace}: `helm list --all-namespaces` tells "
            "where it is; --namespace and --release name it"
        ]
    lines = [*_claims(seen), *_workloads(seen), *_pods(seen), *_scaled(seen)]
    return list(dict.fromkeys(lines))


def component_of(item: Object) -> str:
    """The component that an object belongs to, e.g. "slm"."""
    return str(item["metadata"].get("labels", {}).get(COMPONENT, item["metadata"]["name"]))


def _claims(seen: Survey) -> Iterator[str]:
    for claim in seen.claims:
        if claim["status"].get("phase") != "Pending":
            continue
        name, asked = claim["metadata"]["name"], claim["spec"].get("storageClassName")
        known = ", ".join(seen.storage_classes or []) or "none"
        setting = "labeler.claim" if component_of(claim) == "labeler" else "modelCache.claim"
        if not asked and seen.storage_classes is not None and not seen.default_storage_class:
            yield (
                f"volume claim {name} waits: the cluster has no default StorageClass; set {setting}.storageClassName "
                f"to one that it has ({known})"
            )
        elif asked and seen.storage_classes is not None and asked not in seen.storage_classes:
            yield (
                f"volume claim {name} waits: the cluster has no StorageClass {asked!r}; set "
                f"{setting}.storageClassName to one that it has ({known})"
            )
        elif warning := seen.warnings.get(claim["metadata"]["uid"]):
            yield f"volume claim {name} waits: {one_line(warning)}; see {setting} in values.yaml"


def _workloads(seen: Survey) -> Iterator[str]:
    for workload in seen.workloads:
        for condition in workload["status"].get("conditions", []):
            if condition["type"] == "ReplicaFailure" and condition["status"] == "True":
                yield f"{component_of(workload)}: its pods are refused: {one_line(condition.get('message', ''))}"


def _pods(seen: Survey) -> Iterator[str]:
    for pod in seen.pods:
        if is_ready(pod) or pod["status"].get("phase") == "Succeeded" or "deletionTimestamp" in pod["metadata"]:
            continue
        if pod["status"].get("phase") != "Failed":
            yield _unscheduled(pod) or _container_fault(pod, seen) or _not_ready(pod, seen)
        elif not _is_replaced(pod, seen):
            yield _container_fault(pod, seen) or _ended(pod, seen)


def _is_replaced(pod: Object, seen: Survey) -> bool:
    """Whether a pod that failed is history: another one is there, or its Job goes on, is complete or is gone."""
    owners = pod["metadata"].get("ownerReferences", [])
    if uids := [owner["uid"] for owner in owners if owner["kind"] == "Job"]:
        mine = [job for job in seen.jobs if job["metadata"]["uid"] in uids]
        return not any(_has_failed(job) and not _is_superseded(job, seen) for job in mine)
    return any(component_of(other) == component_of(pod) and _is_alive(other) for other in seen.pods)


def _has_failed(job: Object) -> bool:
    end = ending(job)
    return end is not None and end["type"] == "Failed"


def _is_superseded(job: Object, seen: Survey) -> bool:
    """Whether a later Job makes what this one didn't."""
    return any(
        _run_and_stage(other) == _run_and_stage(job)
        and other["metadata"]["creationTimestamp"] > job["metadata"]["creationTimestamp"]
        for other in seen.jobs
    )


def _run_and_stage(job: Object) -> tuple[str, str]:
    labels = job["metadata"]["labels"]
    return labels.get(RUN_LABEL, job["metadata"]["uid"]), labels.get(STAGE_LABEL, "")


def _is_alive(pod: Object) -> bool:
    return pod["status"].get("phase") not in _ENDED and "deletionTimestamp" not in pod["metadata"]


def _unscheduled(pod: Object) -> str:
    for condition in pod["status"].get("conditions", []):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            name, message = component_of(pod), one_line(condition.get("message", ""))
            if gpus := _GPUS.search(message):
                return f"{name}: no node has {_wanted(pod, gpus[1])} {gpus[1]} free: {_fewer_gpus(name)} ({message})"
            if "PersistentVolumeClaim" in message or "persistentvolumeclaim" in message:
                return f"{name}: waits for its volume ({message}); `kubectl get pvc` lists the claims"
            return f"{name}: no node takes it ({message}): {_more_room(name)}"
    return ""


def _fewer_gpus(name: str) -> str:
    if name == _LABELER:
        return "add nodes, or submit with a lower --parallelism or --gpus, whose default is labeler.gpus"
    return (
        f"add nodes, lower {name}.gpus or {name}.replicas, or, if an update waits, set {name}.rollout to "
        "{maxSurge: 0, maxUnavailable: 1}"
    )


def _more_room(name: str) -> str:
    if name == _TEST:
        return "make room on the nodes"
    asked = "cpu, maxMemoryMb" if name == _REDIS else "resources"
    return f"see {name}.{asked}, nodeSelector, tolerations and affinity"


def _container_fault(pod: Object, seen: Survey) -> str:
    name = component_of(pod)
    for status in pod["status"].get("containerStatuses", []):
        waiting = status.get("state", {}).get("waiting", {})
        reason, message = waiting.get("reason", ""), one_line(waiting.get("message", ""))
        if reason in _UNPULLED:
            return (
                f"{name}: the image {status['image']} can't be pulled: set images.registry and images.tag to where "
                "it is, images.pullSecrets if the registry asks who you are, or load it into the nodes"
            )
        if reason in _UNMADE:
            return f"{name}: {_unmade(message, seen.namespace)}"
        ended = status.get("state", {}).get("terminated") or status.get("lastState", {}).get("terminated")
        if ended and ended.get("exitCode"):
            return f"{name}: {_crash(name, pod, status, ended)}"
    return ""


def _unmade(message: str, namespace: str) -> str:
    if missing := _SECRET.search(message):
        return (
            f"Secret {missing[1]!r} is missing: `kubectl -n {namespace} create secret generic {missing[1]} "
            "--from-literal=KEY=VALUE`, or name another in the values"
        )
    if missing := _KEY.search(message):
        return f"Secret {missing[2]!r} has no key {missing[1]!r}: add it, or name its key in the values"
    return f"its container can't be made: {message}"


def _crash(name: str, pod: Object, status: Object, ended: Object) -> str:
    is_over = "terminated" in status.get("state", {})
    times = f"ended {status['restartCount'] + is_over} times, last"
    if ended.get("reason") == "OOMKilled":
        limit = pod["spec"]["containers"][0].get("resources", {}).get("limits", {}).get("memory", "its limit")
        setting = "redis.maxMemoryMb" if name == _REDIS else f"{name}.resources.limits.memory"
        return f"{times} because it used more memory than {limit}: raise {setting}"
    log = "kubectl logs" if is_over else "kubectl logs --previous"
    said = last_serious(ended.get("message", "")) or f"its log tells why: {log}"
    return f"{times} with exit code {ended['exitCode']}: {said}"


def _not_ready(pod: Object, seen: Survey) -> str:
    name = component_of(pod)
    if said := last_serious(seen.logs.get(pod["metadata"]["name"], "")):
        return f"{name}: runs, but doesn't serve: {said}"
    return f"{name}: isn't ready yet: give it time to load, or see what `{_describe(name, seen)}` tells"


def _ended(pod: Object, seen: Survey) -> str:
    """A pod that was ended from outside: evicted, or its node was shut down."""
    name = component_of(pod)
    return f"{name}: ended ({one_line(why_ended(pod))}): see what `{_describe(name, seen)}` tells"


def _describe(name: str, seen: Survey) -> str:
    return f"kubectl -n {seen.namespace} describe pods -l {COMPONENT}={name}"


def _scaled(seen: Survey) -> Iterator[str]:
    for item in seen.scaled:
        for condition in item.get("status", {}).get("conditions", []):
            if condition["type"] == "Ready" and condition["status"] == "False":
                message = one_line(condition.get("message", ""))
                yield f"{component_of(item)}: KEDA doesn't scale it ({message}): see autoscaling.prometheusAddress"


def _wanted(pod: Object, resource: str) -> str:
    limits = (item.get("resources", {}).get("limits", {}) for item in pod["spec"]["containers"])
    return next((str(limit[resource]) for limit in limits if resource in limit), "enough")
