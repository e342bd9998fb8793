"""A PodTemplate as the API server gives it, and the Jobs' objects."""

from __future__ import annotations

from typing import Any

from labeler_jobs.jobs.manifest import JobOptions

OPTIONS = JobOptions(out="/labels/train", arguments=("--limit", "8"), num_shards=4, parallelism=2, gpus=1)


def template(**metadata: Any) -> dict[str, Any]:
    labels = {
        "app.kubernetes.io/name": "trivium",
        "app.kubernetes.io/instance": "mine",
        "app.kubernetes.io/component": "labeler",
    }
    return {
        "metadata": {
            "name": "mine-trivium-labeler",
            "uid": "a-b-c",
            "labels": dict(labels),
            "annotations": {"trivium/gpu-resource": "nvidia.com/gpu"},
            **metadata,
        },
        "template": {
            "metadata": {"labels": {**labels, "team": "ml"}},
            "spec": {
                "restartPolicy": "Never",
                "containers": [
                    {
                        "name": "labeler",
                        "image": "trivium-cpu:1",
                        "command": ["trivium", "label"],
                        "resources": {"limits": {"memory": "4Gi", "nvidia.com/gpu": "2"}},
                        "volumeMounts": [
                            {"name": "tmp", "mountPath": "/tmp"},
                            {"name": "labels", "mountPath": "/labels"},
                        ],
                    }
                ],
                "volumes": [{"name": "labels", "persistentVolumeClaim": {"claimName": "labels"}}],
            },
        },
    }


def container_of(job: dict[str, Any]) -> dict[str, Any]:
    [found] = job["spec"]["template"]["spec"]["containers"]
    container: dict[str, Any] = found
    return container


def job(**status: Any) -> dict[str, Any]:
    return {"metadata": {"name": "job", "uid": "job-uid"}, "spec": {}, "status": status}


def pod(
    name: str = "pod", index: int = 0, phase: str = "Pending", state: dict[str, Any] | None = None, **more: Any
) -> dict[str, Any]:
    """A pod of a Job. `more` goes into its status."""
    return {
        "metadata": {
            "name": name,
            "uid": f"{name}-uid",
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "annotations": {"batch.kubernetes.io/job-completion-index": str(index)},
        },
        "spec": {"nodeName": "node"},
        "status": {"phase": phase, "containerStatuses": [{"state": state}] if state else [], **more},
    }
