"""How a Job stands, read from the Job and its pods as the API server tells them.

Owns what counts as done, as failed and as waiting, and the words for why a pod waits. Pure: dictionaries in, facts
out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from labeler_jobs.shards.numbers import parse_numbers

Object = dict[str, Any]

INDEX_ANNOTATION = "batch.kubernetes.io/job-completion-index"

_STARTING = ("", "ContainerCreating", "PodInitializing")
# How long a node may take to confirm that a pod it was told to end is gone.
_PATIENCE = timedelta(seconds=30)


@dataclass(frozen=True)
class Situation:
    """How a Job stands.

    Attributes:
        done: Indexes that succeeded.
        failed: Indexes that were given up.
        num_running: Pods whose container runs.
        waiting: Why other pods don't, with how many.
        unexplained: Uids of objects that wait without saying why; their events may tell.
        is_suspended: Whether the Job waits for Kueue, or was suspended by hand.
        is_stuck: Whether a container can't be made: its image can't be pulled, a Secret is missing, …
        outcome: "Complete", "Failed", or empty while it goes on.
        message: Why it failed.
    """

    done: Sequence[int]
    failed: Sequence[int]
    num_running: int
    waiting: Sequence[str]
    unexplained: Sequence[str]
    is_suspended: bool
    is_stuck: bool
    outcome: str
    message: str


def read_situation(job: Object, pods: Iterable[Object], now: datetime) -> Situation:
    """Tells how a Job stands.

    Args:
        job: The Job.
        pods: Its pods.
        now: The time, with its zone.
    """
    status = job.get("status", {})
    is_suspended = bool(job["spec"].get("suspend"))
    end = ending(job)
    alive = [pod for pod in pods if pod["status"].get("phase") in ("Pending", "Running")]
    reasons = Counter(filter(None, (_why_waiting(pod, now) for pod in alive)))
    unexplained = [pod["metadata"]["uid"] for pod in alive if _is_starting(pod)]
    if not alive and not end and not is_suspended:
        unexplained.append(job["metadata"]["uid"])
    return Situation(
        done=parse_numbers(status.get("completedIndexes", "")),
        failed=parse_numbers(status.get("failedIndexes", "")),
        num_running=sum(_is_running(pod) for pod in alive),
        waiting=[f"{_count(number)}: {reason}" for reason, number in reasons.items()],
        unexplained=unexplained,
        is_suspended=is_suspended,
        is_stuck=any(map(_waits, alive)),
        outcome=end["type"] if end else "",
        message=end.get("message", "") if end else "",
    )


def ending(job: Object) -> Object | None:
    """The condition that a Job ended with, its type "Complete" or "Failed"; None while it goes on."""
    conditions = job.get("status", {}).get("conditions", [])
    ends = (item for item in conditions if item["status"] == "True" and item["type"] in ("Complete", "Failed"))
    return next(ends, None)


def index_of(pod: Object) -> int | None:
    """The index that a pod works on; None for a pod of no Indexed Job."""
    index = pod["metadata"].get("annotations", {}).get(INDEX_ANNOTATION)
    return None if index is None else int(index)


def last_failures(pods: Iterable[Object], indexes: Iterable[int]) -> dict[int, Object]:
    """The pod of each of these indexes that failed last, where one is left."""
    wanted, found = set(indexes), {}
    for pod in sorted(pods, key=lambda pod: str(pod["metadata"]["creationTimestamp"])):
        index = index_of(pod)
        if index in wanted and pod["status"].get("phase") == "Failed":
            found[index] = pod
    return found


def why_ended(pod: Object) -> str:
    """What a failed pod ended with."""
    for container in pod["status"].get("containerStatuses", []):
        end = container.get("state", {}).get("terminated")
        if end:
            reason = end.get("reason", "")
            return f"exit code {end['exitCode']}" + (f", {reason}" if reason not in ("", "Error") else "")
    return str(pod["status"].get("message") or pod["status"].get("reason") or "without a word")


def _why_waiting(pod: Object, now: datetime) -> str:
    deleted = pod["metadata"].get("deletionTimestamp")
    if deleted and now - datetime.fromisoformat(deleted) > _PATIENCE:
        node = pod["spec"].get("nodeName", "")
        return (
            f"was told to end, which its node {node} doesn't confirm; its shard is made elsewhere once the node is "
            f"back, or deleted (kubectl delete node {node})"
        )
    for condition in pod["status"].get("conditions", []):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return str(condition.get("message") or condition.get("reason", ""))
    return "; ".join(f"{reason}: {message}" if message else reason for reason, message in _waits(pod))


def _waits(pod: Object) -> list[tuple[str, str]]:
    states = [container.get("state", {}).get("waiting") for container in pod["status"].get("containerStatuses", [])]
    found = [(state.get("reason", ""), state.get("message", "")) for state in states if state]
    return [(reason, message) for reason, message in found if reason not in _STARTING]


def _is_running(pod: Object) -> bool:
    return any("running" in container.get("state", {}) for container in pod["status"].get("containerStatuses", []))


def _is_starting(pod: Object) -> bool:
    """Whether a pod has a node, and nothing more."""
    return "nodeName" in pod["spec"] and not _is_running(pod) and not _waits(pod)


def _count(number: int) -> str:
    return "1 pod waits" if number == 1 else f"{number} pods wait"
