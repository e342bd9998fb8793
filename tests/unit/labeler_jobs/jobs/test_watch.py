import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from kubernetes import client
from kubernetes.client.exceptions import ApiException

from labeler_jobs.jobs.watch import Follower
from tests.unit.labeler_jobs.jobs.api_server import NAMESPACE, ApiServer

RUN = {"trivium/run": "mine"}


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with ApiServer() as server:
        yield server


@pytest.fixture
def pods(server: ApiServer) -> Iterator[Follower]:
    list_call = client.CoreV1Api(server.client()).list_namespaced_pod
    with Follower(list_call, threading.Event(), namespace=NAMESPACE, label_selector="trivium/run=mine") as pods:
        yield pods


def pod(name: str, phase: str = "Pending", labels: dict[str, str] | None = None) -> dict[str, Any]:
    return {"metadata": {"name": name, "labels": RUN if labels is None else labels}, "status": {"phase": phase}}


def phases(pods: Follower) -> dict[str, str]:
    return {item["metadata"]["name"]: item["status"]["phase"] for item in pods.objects or []}


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_objects_are_none_before_they_are_seen_and_then_those_selected(server: ApiServer) -> None:
    server.put("pods", pod("mine"))
    server.put("pods", pod("other", labels={}))
    changed = threading.Event()
    list_call = client.CoreV1Api(server.client()).list_namespaced_pod
    pods = Follower(list_call, changed, namespace=NAMESPACE, label_selector="trivium/run=mine")
    assert pods.objects is None
    with pods:
        assert changed.wait(10)
        assert phases(pods) == {"mine": "Pending"}


def test_changes_are_seen_as_they_come(server: ApiServer, pods: Follower) -> None:
    server.await_watches(1)
    server.put("pods", pod("a"))
    server.put("pods", pod("b"))
    server.put("pods", pod("a", "Running"))
    until(lambda: phases(pods) == {"a": "Running", "b": "Pending"})
    server.remove("pods", "b")
    until(lambda: phases(pods) == {"a": "Running"})
    assert server.num_watches == 1


def test_dropped_connection_loses_nothing_that_happened_meanwhile(server: ApiServer, pods: Follower) -> None:
    server.put("pods", pod("a"))
    server.put("pods", pod("b"))
    for number in range(1, 4):
        server.await_watches(number)
        server.drop_connections()
        server.put("pods", pod("a", f"phase {number}"))
    server.remove("pods", "b")
    until(lambda: phases(pods) == {"a": "phase 3"} and pods.away_s == 0)


def test_expired_version_lists_anew(server: ApiServer, pods: Follower) -> None:
    server.put("pods", pod("a"))
    server.await_watches(1)
    with server.changed:
        # One step for those who watch: they see the 410 alone, never what happened before it.
        server.events.clear()
        server.objects["pods"]["a"]["status"]["phase"] = "Running"
        server.forget_versions()
    until(lambda: phases(pods) == {"a": "Running"})
    server.await_watches(2)
    server.put("pods", pod("a", "Succeeded"))
    until(lambda: phases(pods) == {"a": "Succeeded"})


def test_server_that_was_away_is_found_again(server: ApiServer, pods: Follower) -> None:
    server.put("pods", pod("a"))
    server.await_watches(1)
    server.is_away = True
    server.drop_connections()
    until(lambda: pods.away_s > 0)
    assert phases(pods) == {"a": "Pending"}
    server.put("pods", pod("a", "Running"))
    server.is_away = False
    until(lambda: phases(pods) == {"a": "Running"})
    assert pods.away_s == 0.0


def test_refusal_is_raised_where_objects_are_read(server: ApiServer) -> None:
    server.refusals["GET", "pods"] = (403, "pods is forbidden")
    changed = threading.Event()
    list_call = client.CoreV1Api(server.client()).list_namespaced_pod
    with Follower(list_call, changed, namespace=NAMESPACE) as pods:
        assert changed.wait(10)
        with pytest.raises(ApiException) as refusal:
            _ = pods.objects
    assert refusal.value.status == 403
    assert len(server.requests) == 1


def test_end_of_the_block_ends_a_watch_that_nothing_comes_through(server: ApiServer) -> None:
    started = time.monotonic()
    list_call = client.CoreV1Api(server.client()).list_namespaced_pod
    with Follower(list_call, threading.Event(), namespace=NAMESPACE) as pods:
        server.await_watches(1)
    assert not pods._thread.is_alive()
    assert time.monotonic() - started < 5
