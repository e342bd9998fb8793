from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from services.cli.doctor.kube_findings import findings
from services.cli.doctor.kube_survey import Object, Survey

VALUES = Path(__file__).parents[4] / "charts" / "trivium" / "values.yaml"
SERVICES = ["slm", "router", "llm", "orchestrator"]


def _labels(component: str) -> dict[str, str]:
    return {"app.kubernetes.io/component": component}


def _pod(component: str, *, status: Object, name: str = "pod-1", **spec: Any) -> Object:
    return {
        "metadata": {"name": name, "labels": _labels(component)},
        "spec": {"containers": [{"name": component, **spec}]},
        "status": {"phase": "Pending", **status},
    }


def _waiting(reason: str, message: str = "") -> Object:
    state = {"waiting": {"reason": reason, "message": message}}
    return {"containerStatuses": [{"image": "reg/trivium-cpu:9", "restartCount": 0, "state": state}]}


def _crashed(exit_code: int, message: str = "", reason: str = "Error") -> Object:
    ended = {"exitCode": exit_code, "message": message, "reason": reason}
    status = {"restartCount": 3, "image": "i", "state": {"waiting": {"reason": "CrashLoopBackOff"}}}
    return {"containerStatuses": [{**status, "lastState": {"terminated": ended}}]}


def _unscheduled(message: str) -> Object:
    return {"conditions": [{"type": "PodScheduled", "status": "False", "message": message}]}


def _running() -> Object:
    return {"phase": "Running", "containerStatuses": [{"image": "i", "restartCount": 0, "state": {"running": {}}}]}


def _survey(*pods: Object, **fields: Any) -> Survey:
    workload = {"metadata": {"name": "trivium-llm", "labels": _labels("llm")}, "status": {}}
    return Survey("ml", "trivium", **{"workloads": [workload], "pods": list(pods), **fields})


def _evicted(component: str, **metadata: Any) -> Object:
    status = {"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory."}
    pod = _pod(component, status=status, name="evicted")
    pod["metadata"].update(metadata)
    return pod


def _ready(component: str) -> Object:
    return _pod(component, status={"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]})


def _job(condition: str, *, uid: str = "job-1", created: str = "2026-01-01T00:00:00Z") -> Object:
    labels = {**_labels("labeler"), "trivium/run": "r", "trivium/stage": "responses"}
    conditions = [{"type": condition, "status": "True"}] if condition else []
    return {
        "metadata": {"uid": uid, "labels": labels, "creationTimestamp": created},
        "status": {"conditions": conditions},
    }


def _labelling(status: Object) -> Object:
    pod = _pod("labeler", status={"phase": "Failed", **status})
    pod["metadata"]["ownerReferences"] = [{"kind": "Job", "uid": "job-1"}]
    return pod


def _died(exit_code: int, reason: str = "Error") -> Object:
    ended = {"terminated": {"exitCode": exit_code, "reason": reason}}
    return {"containerStatuses": [{"image": "i", "restartCount": 0, "state": ended}]}


def _claim(storage_class: str | None, labels: dict[str, str] | None = None) -> Object:
    spec = {"storageClassName": storage_class} if storage_class else {}
    metadata = {"name": "trivium-models", "uid": "u", "labels": labels or _labels("models")}
    return {"metadata": metadata, "spec": spec, "status": {"phase": "Pending"}}


def test_nothing_wrong_is_no_line() -> None:
    ready = {"conditions": [{"type": "Ready", "status": "True"}]}
    assert findings(_survey(_pod("slm", status=ready))) == []


def test_no_release_says_where_to_look() -> None:
    [line] = findings(Survey("ml", "demo"))
    assert "no release 'demo' in the namespace ml" in line
    assert "--namespace" in line


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (
            _waiting("ImagePullBackOff"),
            ["reg/trivium-cpu:9 can't be pulled", "images.registry", "images.pullSecrets"],
        ),
        (_waiting("ErrImageNeverPull"), ["reg/trivium-cpu:9 can't be pulled"]),
        (
            _waiting("CreateContainerConfigError", 'secret "hub" not found'),
            ["Secret 'hub' is missing", "kubectl -n ml create secret generic hub"],
        ),
        (
            _waiting("CreateContainerConfigError", "couldn't find key token in Secret ml/hub"),
            ["Secret 'hub' has no key 'token'"],
        ),
        (_waiting("CreateContainerError", "no such device"), ["no such device"]),
        (_unscheduled("0/2 nodes are available: 2 Insufficient memory."), ["Insufficient memory", "llm.resources"]),
        (_unscheduled('persistentvolumeclaim "m" not found'), ["waits for its volume", "kubectl get pvc"]),
        (_crashed(1, "Traceback\n  ...\nValueError: bad\n"), ["ended 3 times", "exit code 1: ValueError: bad"]),
        (_crashed(1), ["kubectl logs --previous"]),
    ],
)
def test_pod_that_can_not_run_says_why_and_what_to_do(status: Object, told: list[str]) -> None:
    [line] = findings(_survey(_pod("llm", status=status)))
    assert line.startswith("llm: ")
    assert all(part in line for part in told), line


def test_missing_gpus_are_counted_and_named() -> None:
    limits: Object = {"resources": {"limits": {"nvidia.com/gpu": "2"}}}
    status = _unscheduled("0/2 nodes are available: 2 Insufficient nvidia.com/gpu.")
    [line] = findings(_survey(_pod("llm", status=status, **limits)))
    assert "no node has 2 nvidia.com/gpu free" in line
    assert "llm.rollout" in line


def test_memory_that_ran_out_names_the_limit() -> None:
    limits: Object = {"resources": {"limits": {"memory": "2Gi"}}}
    [line] = findings(_survey(_pod("llm", status=_crashed(137, reason="OOMKilled"), **limits)))
    assert "more memory than 2Gi" in line
    assert "llm.resources.limits.memory" in line


def test_crash_of_a_service_tells_the_last_serious_log_line() -> None:
    lines = [
        {"level": "ERROR", "message": "can't start: no such checkpoint"},
        {"level": "INFO", "message": "stopped"},
    ]
    message = "\n".join(map(json.dumps, lines))
    [line] = findings(_survey(_pod("router", status=_crashed(1, message))))
    assert line.endswith("exit code 1: can't start: no such checkpoint")


def test_pod_that_runs_and_does_not_serve_tells_its_last_warning() -> None:
    log = json.dumps({"level": "WARNING", "message": "link to router:50053: trained for another SLM"})
    [line] = findings(_survey(_pod("orchestrator", status=_running()), logs={"pod-1": log}))
    assert line == "orchestrator: runs, but doesn't serve: link to router:50053: trained for another SLM"


def test_replicas_that_share_a_fault_share_a_line() -> None:
    pods = [_pod("llm", status=_waiting("ErrImagePull"), name=f"pod-{number}") for number in range(3)]
    assert len(findings(_survey(*pods))) == 1


@pytest.mark.parametrize(
    ("claim", "fields", "told"),
    [
        (
            _claim(None),
            {"storage_classes": ["slow"]},
            "no default StorageClass; set modelCache.claim.storageClassName",
        ),
        (_claim("fast"), {"storage_classes": ["slow"], "default_storage_class": "slow"}, "'fast'"),
        (_claim("fast"), {"storage_classes": None, "warnings": {"u": "no ReadWriteMany"}}, "no ReadWriteMany"),
        (_claim("x", _labels("labeler")), {"storage_classes": []}, "labeler.claim.storageClassName"),
    ],
)
def test_claim_that_waits_says_which_setting_helps(claim: Object, fields: dict[str, Any], told: str) -> None:
    [line] = findings(_survey(claims=[claim], **fields))
    assert line.startswith("volume claim trivium-models waits: ")
    assert told in line


def test_refused_pods_and_unscaled_components_are_told() -> None:
    refused = {"type": "ReplicaFailure", "status": "True", "message": 'violates PodSecurity "restricted"'}
    workload = {"metadata": {"name": "w", "labels": _labels("slm")}, "status": {"conditions": [refused]}}
    condition = {"type": "Ready", "status": "False", "message": "no Prometheus"}
    scaled = {"metadata": {"name": "s", "labels": _labels("llm")}, "status": {"conditions": [condition]}}
    first, second = findings(Survey("ml", "trivium", workloads=[workload], scaled=[scaled]))
    assert first.startswith("slm: its pods are refused: violates PodSecurity")
    assert second.startswith("llm: KEDA doesn't scale it (no Prometheus)")


def test_failed_pod_that_was_replaced_is_no_problem() -> None:
    assert findings(_survey(_evicted("llm"), _ready("llm"))) == []


def test_replacement_that_can_not_run_is_the_only_problem() -> None:
    [line] = findings(_survey(_evicted("llm"), _pod("llm", status=_waiting("ErrImagePull"))))
    assert "can't be pulled" in line


@pytest.mark.parametrize("other", [_ready("slm"), _evicted("llm"), _evicted("llm", deletionTimestamp="now")])
def test_failed_pod_that_nothing_replaces_says_why_it_ended(other: Object) -> None:
    [line] = findings(_survey(_evicted("llm"), other))
    assert line.startswith(
        "llm: ended (The node was low on resource: memory.): see what `kubectl -n ml describe pods"
    )


@pytest.mark.parametrize("jobs", [[_job("")], [_job("Complete")], [_job("FailureTarget")], []])
def test_failed_labelling_pod_is_no_problem_while_its_job_has_not_failed(jobs: list[Object]) -> None:
    assert findings(_survey(_labelling(_died(1)), jobs=jobs)) == []


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (_died(3), "labeler: ended 1 times, last with exit code 3: its log tells why: kubectl logs"),
        (_died(137, "OOMKilled"), "raise labeler.resources.limits.memory"),
        ({"reason": "Evicted"}, "labeler: ended (Evicted)"),
    ],
)
def test_failed_pod_of_a_failed_job_is_told(status: Object, told: str) -> None:
    others = _pod("labeler", status={"phase": "Succeeded"}), _ready("labeler")
    [line] = findings(_survey(_labelling(status), *others, jobs=[_job("Failed")]))
    assert told in line
    assert "--previous" not in line


def test_failed_job_is_no_problem_once_it_was_submitted_again() -> None:
    later = _job("", uid="job-2", created="2026-01-02T00:00:00Z")
    assert findings(_survey(_labelling(_died(1)), jobs=[_job("Failed"), later])) == []


@pytest.mark.parametrize(
    ("components", "status"),
    [
        ([*SERVICES, "labeler"], _unscheduled("0/2 nodes are available: 2 Insufficient nvidia.com/gpu.")),
        ([*SERVICES, "labeler", "redis", "test"], _unscheduled("0/2 nodes are available: 2 Insufficient cpu.")),
        ([*SERVICES, "labeler", "redis"], _crashed(137, reason="OOMKilled")),
    ],
)
def test_values_that_advice_names_are_values_of_the_chart(components: list[str], status: Object) -> None:
    values = yaml.safe_load(VALUES.read_text(encoding="utf-8"))
    for component in components:
        [line] = findings(_survey(_pod(component, status=status)))
        for name in re.findall(rf"\b{component}(?:\.\w+)+", line):
            found = values
            for part in name.split("."):
                assert part in found, name
                found = found[part]


def test_labelling_pod_that_waits_for_gpus_is_told_of_the_options_of_submit() -> None:
    [line] = findings(_survey(_pod("labeler", status=_unscheduled("0/2 nodes: 2 Insufficient nvidia.com/gpu."))))
    assert "--parallelism or --gpus, whose default is labeler.gpus" in line
    assert "rollout" not in line
    assert "replicas" not in line
