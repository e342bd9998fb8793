"""Manifests of Jobs; the strict schemas of Kubernetes hold them."""

import json
from dataclasses import replace
from typing import Any

import pytest

from labeler_jobs.jobs.manifest import (
    JobOptions,
    ManifestError,
    plan_job,
    queue_of,
    resolve_out,
    run_of,
    stage_job,
)
from tests.unit.chart.harness.kubernetes_schemas import problems
from tests.unit.labeler_jobs.jobs.samples import OPTIONS, container_of, template

QUEUE = "kueue.x-k8s.io/queue-name"


def make(shards: list[int] | None = None, runs_model: bool = True, **changes: Any) -> dict[str, Any]:
    options = replace(OPTIONS, **changes)
    shards = list(range(options.num_shards)) if shards is None else shards
    return stage_job(template(), options, "responses", shards, runs_model)


@pytest.mark.parametrize("version", ["1.30", "1.36"])
@pytest.mark.parametrize(
    "job",
    [
        make(),
        make([1, 3]),
        make(runs_model=False),
        make(queue="gpus"),
        make(gpus=None),
        plan_job(template(), OPTIONS),
    ],
    ids=["whole", "resumed", "without GPUs", "queued", "GPUs of the template", "plan"],
)
def test_job_fits_the_schemas_of_kubernetes(job: dict[str, Any], version: str) -> None:
    named = {**job, "metadata": {**job["metadata"], "name": job["metadata"]["generateName"] + "abcde"}}
    assert problems(named, version) == []


def test_every_shard_is_an_index_that_fails_alone_and_evictions_do_not_count() -> None:
    spec = make(retries=5, keep_s=60)["spec"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 4, 2)
    assert (spec["backoffLimitPerIndex"], spec["ttlSecondsAfterFinished"]) == (5, 60)
    assert spec["podFailurePolicy"]["rules"][0] == {
        "action": "Ignore",
        "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
    }
    assert "suspend" not in spec


def test_pods_run_the_stage_with_its_options_and_whole_runs_need_no_map() -> None:
    assert container_of(make())["args"] == ["responses", "--out", "/labels/train", "--shards", "4", "--limit", "8"]
    assert container_of(make())["command"] == ["trivium", "label"]


def test_missing_shards_are_mapped_from_fewer_indexes() -> None:
    job = make([1, 3])
    assert container_of(job)["args"][-2:] == ["--shard-map", "1,3"]
    assert (job["spec"]["completions"], job["spec"]["parallelism"]) == (2, 2)
    assert make([2])["spec"]["parallelism"] == 1


@pytest.mark.parametrize(
    ("num_shards", "parallelism", "asked", "expected"),
    [(100, 4, None, 10), (20, 4, None, 4), (3, 4, None, 3), (100, 4, 0, 0), (10, 4, 50, 10)],
)
def test_failed_shards_end_a_job_beyond_a_tenth_or_what_is_asked(
    num_shards: int, parallelism: int, asked: int | None, expected: int
) -> None:
    job = make(num_shards=num_shards, parallelism=parallelism, max_failed_shards=asked)
    assert job["spec"]["maxFailedIndexes"] == expected


@pytest.mark.parametrize(
    ("gpus", "runs_model", "expected"), [(1, True, "1"), (None, True, "2"), (0, True, None), (1, False, None)]
)
def test_gpus_are_those_asked_for_and_only_where_a_model_runs(
    gpus: int | None, runs_model: bool, expected: str | None
) -> None:
    limits = container_of(make(gpus=gpus, runs_model=runs_model))["resources"]["limits"]
    assert limits.get("nvidia.com/gpu") == expected
    assert limits["memory"] == "4Gi"


def test_gpus_without_a_name_for_them_are_refused() -> None:
    with pytest.raises(ManifestError, match=r"--gpus: .* annotation trivium/gpu-resource is missing"):
        stage_job(template(annotations={}), OPTIONS, "responses", [0], True)


def test_labels_tell_release_stage_and_run_on_job_and_pods() -> None:
    job = make()
    run = run_of(template(), "/labels/train")
    expected = {
        "app.kubernetes.io/instance": "mine",
        "app.kubernetes.io/managed-by": "trivium",
        "trivium/run": run,
        "trivium/stage": "responses",
    }
    assert job["metadata"]["labels"].items() >= expected.items()
    assert job["spec"]["template"]["metadata"]["labels"].items() >= {**expected, "team": "ml"}.items()
    assert job["metadata"]["ownerReferences"][0]["uid"] == "a-b-c"
    assert json.loads(job["metadata"]["annotations"]["trivium/arguments"])[-2:] == ["--limit", "8"]


def test_run_depends_on_release_and_folder() -> None:
    runs = {run_of(template(), "/labels/a"), run_of(template(), "/labels/b"), run_of(template(name="x"), "/labels/a")}
    assert len(runs) == 3
    assert run_of(template(), "/labels/a") in runs


def test_queue_suspends_the_job_until_kueue_starts_it() -> None:
    job = make(queue="gpus")
    assert job["spec"]["suspend"] is True
    assert job["metadata"]["labels"][QUEUE] == "gpus"
    assert QUEUE not in job["spec"]["template"]["metadata"]["labels"]


@pytest.mark.parametrize(("asked", "expected"), [(None, "default"), ("mine", "mine"), ("", "")])
def test_queue_is_the_one_asked_for_else_the_templates(asked: str | None, expected: str) -> None:
    assert queue_of(template(labels={QUEUE: "default"}), replace(OPTIONS, queue=asked)) == expected


def test_template_is_left_as_it_is() -> None:
    given = template()
    stage_job(given, OPTIONS, "responses", [0], True)
    assert given == template()


def test_plan_runs_one_pod_without_gpus_and_takes_its_first_refusal() -> None:
    job = plan_job(template(), OPTIONS)
    assert (job["spec"]["completions"], container_of(job)["args"][0]) == (1, "plan")
    assert container_of(job)["resources"]["limits"] == {"memory": "4Gi"}
    assert job["spec"]["podFailurePolicy"]["rules"][-1]["onExitCodes"]["values"] == [1, 2]
    assert make()["spec"]["podFailurePolicy"]["rules"][-1]["onExitCodes"]["values"] == [2]


def test_names_of_pods_leave_room_for_their_index() -> None:
    job = stage_job(template(name="n" * 48), OPTIONS, "responses", [0], True)
    assert len(job["metadata"]["generateName"]) + len("abcde-99999") <= 63


@pytest.mark.parametrize(
    ("out", "seen"),
    [
        ("train", "/labels/train"),
        ("a/b/", "/labels/a/b"),
        ("/labels/train", "/labels/train"),
        ("/labels//train", "/labels/train"),
        ("s3://bucket/labels", "s3://bucket/labels"),
    ],
)
def test_out_is_a_place_on_the_volume_or_a_url(out: str, seen: str) -> None:
    assert resolve_out(template(), out) == seen


@pytest.mark.parametrize("out", ["/data/train", "/labelsmore", "../x", "/labels/../tmp", "/tmp"])
def test_out_off_the_volume_is_refused(out: str) -> None:
    with pytest.raises(ManifestError, match=r"--out: .* isn't below /labels"):
        resolve_out(template(), out)


def test_template_of_something_else_is_refused() -> None:
    other = template()
    other["template"]["spec"]["containers"][0]["name"] = "web"
    with pytest.raises(ManifestError, match="no container 'labeler'"):
        stage_job(other, JobOptions(out="/labels", arguments=(), num_shards=1), "responses", [0], True)
