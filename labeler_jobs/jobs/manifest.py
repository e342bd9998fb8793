"""The Jobs that label: manifests, made from the chart's PodTemplate and what a submitter asks for.

Owns what a Job of Trivium looks like. Pure: no cluster is asked for anything.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from labeler_jobs.shards.numbers import format_numbers

Manifest = dict[str, Any]

CONTAINER = "labeler"
VOLUME = "labels"
PLAN_STAGE = "plan"
RUN_LABEL, STAGE_LABEL = "trivium/run", "trivium/stage"
ARGUMENTS_ANNOTATION, SHARDS_ANNOTATION = "trivium/arguments", "trivium/shards"
GPU_RESOURCE_ANNOTATION = "trivium/gpu-resource"
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"

# A pod's name is the Job's, its index and five drawn characters; its host name must fit into 63.
_NAME_LEN = 35
_SHARE_OF_FAILURES = 10
_USAGE_ERROR = 2
_REFUSAL = 1


class ManifestError(ValueError):
    """No Job can be made of this. The message names the option or the field."""


@dataclass(frozen=True)
class JobOptions:
    """What the Jobs of one run have in common.

    Attributes:
        out: Output folder, as the pods see it.
        arguments: Options of `trivium label STAGE`, but for --out, --shards and --shard-map.
        num_shards: Shards of every stage.
        parallelism: Pods at a time, at most.
        gpus: GPUs of a pod that runs a model; None leaves the PodTemplate's.
        retries: How often a shard may fail before it is given up. Evictions don't count.
        max_failed_shards: A Job with more failed shards ends at once; None is a tenth of them, but at least as many
            as run at a time.
        keep_s: Seconds that a finished Job is kept.
        queue: Kueue's LocalQueue; None leaves the PodTemplate's, empty is none.
    """

    out: str
    arguments: tuple[str, ...]
    num_shards: int
    parallelism: int = 4
    gpus: int | None = None
    retries: int = 3
    max_failed_shards: int | None = None
    keep_s: int = 86400
    queue: str | None = None


def queue_of(template: Manifest, options: JobOptions) -> str:
    """The LocalQueue that the Jobs wait in; empty for none."""
    if options.queue is not None:
        return options.queue
    return str(template["metadata"].get("labels", {}).get(QUEUE_LABEL, ""))


def run_of(template: Manifest, out: str) -> str:
    """What tells Jobs that write to one folder from others, as a label's value."""
    return hashlib.sha256(json.dumps([template["metadata"]["name"], out]).encode()).hexdigest()[:16]


def job_arguments(options: JobOptions) -> list[str]:
    """The options that every stage of a run has in common, as its pods get them."""
    return ["--out", options.out, "--shards", str(options.num_shards), *options.arguments]


def resolve_out(template: Manifest, out: str) -> str:
    """The output folder as pods see it.

    Args:
        template: The PodTemplate.
        out: A path on the volume of labels, or a URL.

    Raises:
        ManifestError: The path leads off the volume.
    """
    if "://" in out:
        return out
    mounts = {mount["name"]: mount["mountPath"] for mount in _container(template["template"]).get("volumeMounts", [])}
    root = mounts.get(VOLUME, "").rstrip("/")
    if not root:
        raise ManifestError(f"PodTemplate {template['metadata']['name']}: the volume {VOLUME!r} is mounted nowhere")
    path = out if out.startswith("/") else f"{root}/{out}"
    parts = path.split("/")
    if ".." in parts or not f"{path}/".startswith(f"{root}/"):
        raise ManifestError(
            f"--out: {out} isn't below {root}, where pods mount the volume of labels; what is written elsewhere "
            "vanishes with the pod. Give a path on it, or a URL such as s3://bucket/labels"
        )
    return "/".join(part for place, part in enumerate(parts) if part or not place)


def stage_job(
    template: Manifest, options: JobOptions, stage: str, shards: Sequence[int], runs_model: bool
) -> Manifest:
    """A Job that makes shards of one stage, one a pod.

    Args:
        template: The PodTemplate.
        options: The run's.
        stage: Name of the stage.
        shards: Numbers of the shards, ascending.
        runs_model: Whether its pods get GPUs.

    Raises:
        ManifestError: The PodTemplate isn't of this chart.
    """
    # Every shard stands for its own index unless some are there already.
    shard_map = ["--shard-map", format_numbers(shards)] if len(shards) < options.num_shards else []
    max_failed = options.max_failed_shards
    if max_failed is None:
        max_failed = max(options.parallelism, len(shards) // _SHARE_OF_FAILURES)
    job = _job(template, options, [stage, *job_arguments(options), *shard_map], options.gpus if runs_model else 0)
    job["metadata"]["annotations"][SHARDS_ANNOTATION] = format_numbers(shards)
    job["spec"] |= {
        "completions": len(shards),
        "parallelism": min(options.parallelism, len(shards)),
        "maxFailedIndexes": min(max_failed, len(shards)),
    }
    # An option that is wrong for one pod is wrong for the next.
    job["spec"]["podFailurePolicy"]["rules"].append(_give_up(_USAGE_ERROR))
    return job


def plan_job(template: Manifest, options: JobOptions) -> Manifest:
    """A Job of one pod that checks the run against the output folder, and writes into its log what is missing there.

    Raises:
        ManifestError: The PodTemplate isn't of this chart.
    """
    job = _job(template, options, [PLAN_STAGE, *job_arguments(options)], gpus=0)
    job["spec"] |= {"completions": 1, "parallelism": 1}
    # A folder that doesn't fit fits no better the second time.
    job["spec"]["podFailurePolicy"]["rules"].append(_give_up(_REFUSAL, _USAGE_ERROR))
    return job


def is_plan(job: Manifest) -> bool:
    """Whether a Job is one of `plan_job`'s."""
    return bool(job["metadata"]["labels"][STAGE_LABEL] == PLAN_STAGE)


def _job(template: Manifest, options: JobOptions, arguments: list[str], gpus: int | None) -> Manifest:
    name, queue = template["metadata"]["name"], queue_of(template, options)
    labels = {
        **_owner_labels(template),
        RUN_LABEL: run_of(template, options.out),
        STAGE_LABEL: arguments[0],
    }
    pods = copy.deepcopy(template["template"])
    pods.setdefault("metadata", {}).setdefault("labels", {}).update(labels)
    container = _container(pods)
    container["args"] = arguments
    if gpus is not None:
        _set_gpus(container, template["metadata"].get("annotations", {}).get(GPU_RESOURCE_ANNOTATION, ""), gpus)
    spec: Manifest = {
        "completionMode": "Indexed",
        "backoffLimitPerIndex": options.retries,
        "podFailurePolicy": {
            "rules": [{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}]
        },
        "ttlSecondsAfterFinished": options.keep_s,
        "template": pods,
    }
    if queue:
        # Kueue starts it once there is room.
        spec["suspend"] = True
        labels[QUEUE_LABEL] = queue
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "generateName": f"{name[:_NAME_LEN].rstrip('-')}-{arguments[0]}-",
            "labels": labels,
            "annotations": {ARGUMENTS_ANNOTATION: json.dumps(job_arguments(options))},
            # Uninstalling the release takes its Jobs along.
            "ownerReferences": [
                {"apiVersion": "v1", "kind": "PodTemplate", "name": name, "uid": template["metadata"]["uid"]}
            ],
        },
        "spec": spec,
    }


def _owner_labels(template: Manifest) -> dict[str, str]:
    found = template["metadata"].get("labels", {})
    kept = ("app.kubernetes.io/name", "app.kubernetes.io/instance", "app.kubernetes.io/component")
    return {label: found[label] for label in kept if label in found} | {"app.kubernetes.io/managed-by": "trivium"}


def _container(pods: Manifest) -> Manifest:
    for container in pods.get("spec", {}).get("containers", []):
        if container["name"] == CONTAINER:
            found: Manifest = container
            return found
    raise ManifestError(f"the PodTemplate has no container {CONTAINER!r}: is it the one of Trivium's chart?")


def _set_gpus(container: Manifest, resource: str, gpus: int) -> None:
    resources = container.setdefault("resources", {})
    for kind in ("limits", "requests"):
        resources.get(kind, {}).pop(resource, None)
    if not gpus:
        return
    if not resource:
        raise ManifestError(
            f"--gpus: the PodTemplate doesn't say what stands for a GPU: its annotation {GPU_RESOURCE_ANNOTATION} is "
            "missing; upgrade the release to this version of the chart"
        )
    resources.setdefault("limits", {})[resource] = str(gpus)


def _give_up(*exit_codes: int) -> Manifest:
    return {
        "action": "FailIndex",
        "onExitCodes": {"containerName": CONTAINER, "operator": "In", "values": list(exit_codes)},
    }
