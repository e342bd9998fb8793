from datetime import UTC, datetime
from typing import Any

import pytest

from labeler_jobs.jobs.situation import last_failures, read_situation, why_ended
from tests.unit.labeler_jobs.jobs.samples import job, pod

NOW = datetime(2026, 1, 1, 0, 1, tzinfo=UTC)
RUNNING = {"running": {"startedAt": "2026-01-01T00:00:00Z"}}


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    return {"waiting": {"reason": reason, "message": message}}


def test_indexes_are_read_as_kubernetes_counts_them() -> None:
    found = read_situation(job(completedIndexes="0,3-5", failedIndexes="2"), [], NOW)
    assert (found.done, found.failed, found.outcome) == ([0, 3, 4, 5], [2], "")


@pytest.mark.parametrize("outcome", ["Complete", "Failed"])
def test_outcome_is_the_condition_that_holds(outcome: str) -> None:
    conditions = [
        {"type": "FailureTarget", "status": "True", "message": "soon"},
        {"type": "Complete", "status": "False"},
        {"type": outcome, "status": "True", "message": "why"},
    ]
    found = read_situation(job(conditions=conditions), [], NOW)
    assert (found.outcome, found.message, found.unexplained) == (outcome, "why", [])


def test_only_containers_that_run_count_as_running() -> None:
    pods = [
        pod("a", state=RUNNING, phase="Running"),
        pod("b", state=waiting("ContainerCreating")),
        pod("c", state={"terminated": {"exitCode": 0}}, phase="Succeeded"),
    ]
    found = read_situation(job(), pods, NOW)
    assert (found.num_running, found.waiting, found.unexplained) == (1, [], ["b-uid"])


def test_pods_that_find_no_node_say_why_once() -> None:
    message = "0/2 nodes are available: 2 Insufficient nvidia.com/gpu."
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    pods = [pod(name, conditions=[condition]) for name in ("a", "b")]
    for item in pods:
        del item["spec"]["nodeName"]
    found = read_situation(job(), pods, NOW)
    assert found.waiting == [f"2 pods wait: {message}"]
    assert not found.is_stuck


@pytest.mark.parametrize(
    "reason", ["ErrImagePull", "ImagePullBackOff", "InvalidImageName", "CreateContainerConfigError"]
)
def test_container_that_cannot_be_made_is_stuck(reason: str) -> None:
    found = read_situation(job(), [pod(state=waiting(reason, "not there"))], NOW)
    assert (found.waiting, found.is_stuck) == ([f"1 pod waits: {reason}: not there"], True)


def test_job_without_pods_is_unexplained_unless_suspended() -> None:
    assert read_situation(job(), [], NOW).unexplained == ["job-uid"]
    suspended = job()
    suspended["spec"]["suspend"] = True
    found = read_situation(suspended, [], NOW)
    assert (found.is_suspended, found.unexplained) == (True, [])


def test_pod_on_a_node_that_does_not_answer_names_the_node() -> None:
    lost = pod(state=RUNNING, phase="Running")
    lost["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:20Z"
    assert "its node node doesn't confirm" in read_situation(job(), [lost], NOW).waiting[0]
    lost["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:50Z"
    assert read_situation(job(), [lost], NOW).waiting == []


def test_last_failure_of_each_index_is_found() -> None:
    pods = [
        pod("late", 1, "Failed"), pod("early", 1, "Failed"), pod("fine", 2, "Succeeded"), pod("other", 3, "Failed")
    ]  # fmt: skip
    pods[0]["metadata"]["creationTimestamp"] = "2026-01-01T00:05:00Z"
    found = last_failures(pods, [1, 2])
    assert {index: item["metadata"]["name"] for index, item in found.items()} == {1: "late"}


@pytest.mark.parametrize(
    ("ended", "words"),
    [
        (pod(state={"terminated": {"exitCode": 1, "reason": "Error"}}), "exit code 1"),
        (pod(state={"terminated": {"exitCode": 137, "reason": "OOMKilled"}}), "exit code 137, OOMKilled"),
        (pod(reason="Evicted", message="low on memory"), "low on memory"),
        (pod(reason="NodeLost"), "NodeLost"),
        (pod(), "without a word"),
    ],
)
def test_failed_pod_tells_what_it_ended_with(ended: dict[str, Any], words: str) -> None:
    assert why_ended(ended) == words
