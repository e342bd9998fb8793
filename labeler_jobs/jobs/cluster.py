"""What labelling asks of a cluster's API server, and its refusals in words that say what to do.

Owns the calls of the official client. What a Job is and how one stands are `manifest`'s and `situation`'s.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

from kubernetes import client
from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError

from labeler_jobs.jobs.connection import ClusterBusy, ClusterError
from labeler_jobs.jobs.manifest import RUN_LABEL, Manifest
from labeler_jobs.jobs.rights import KUEUE, WITH_QUEUE, Right
from labeler_jobs.jobs.situation import Object, ending
from labeler_jobs.jobs.watch import Follower

_JOB_LABEL = "batch.kubernetes.io/job-name"
_TIMEOUT_S = (10, 60)
_UNAUTHORIZED, _FORBIDDEN, _NOT_FOUND, _TOO_MANY, _SERVER = 401, 403, 404, 429, 500


class Cluster:
    """One namespace of a cluster.

    Args:
        api: The official client, connected.
        namespace: Where the release is.
        template_name: Name of the release's PodTemplate, which its Role shares.
    """

    def __init__(self, api: client.ApiClient, namespace: str, template_name: str) -> None:
        self.namespace = namespace
        self.template_name = template_name
        self._api = api
        self._core = client.CoreV1Api(api)
        self._batch = client.BatchV1Api(api)
        self._objects = client.CustomObjectsApi(api)

    def check_rights(self, rights: Sequence[Right]) -> None:
        """Makes sure that nothing will be refused halfway.

        Args:
            rights: What will be done.

        Raises:
            ClusterError: A right is missing; all that are missing are named.
        """
        reviews = client.AuthorizationV1Api(self._api)
        missing = []
        for right in rights:
            resource, _, subresource = right.resource.partition("/")
            asked = {
                "namespace": self.namespace,
                "verb": right.verb,
                "group": right.group,
                "resource": resource,
                "subresource": subresource,
            }
            if resource == "podtemplates":
                asked["name"] = self.template_name
            review = client.V1SelfSubjectAccessReview.from_dict({"spec": {"resourceAttributes": asked}})
            status = self._ask(right, reviews.create_self_subject_access_review, body=review)["status"]
            if not status["allowed"]:
                missing.append(right)
        if missing:
            raise ClusterError(self._no_right(missing))

    def template(self) -> Manifest:
        """The release's PodTemplate.

        Raises:
            ClusterError: There is none.
        """
        right = Right("", "podtemplates", "get")
        read = self._core.read_namespaced_pod_template
        try:
            found: Manifest = self._ask(right, read, name=self.template_name, namespace=self.namespace)
        except _Missing as error:
            raise ClusterError(
                f"no PodTemplate {self.template_name} in the namespace {self.namespace}: is the release there, and "
                "installed with labeler.enabled=true? --release, --namespace and --template name another"
            ) from error
        return found

    def check_queue(self, name: str) -> None:
        """Makes sure that Kueue has a LocalQueue of this name here, and tells this user how it stands.

        Raises:
            ClusterError: It hasn't, or there is no Kueue.
        """
        self.check_rights(WITH_QUEUE)
        try:
            self._ask(
                Right(KUEUE, "localqueues", "get"),
                self._objects.get_namespaced_custom_object,
                **self._kueue("localqueues"),
                name=name,
            )
        except _Missing as error:
            raise ClusterError(
                f"queue {name!r}: no LocalQueue of that name in the namespace {self.namespace}; "
                f"`kubectl -n {self.namespace} get localqueues` lists those that are there"
            ) from error

    def create_job(self, manifest: Manifest) -> Object:
        """Submits a Job.

        Raises:
            ClusterError: The server refuses it.
        """
        created: Object = self._ask(
            Right("batch", "jobs", "create"),
            self._objects.create_namespaced_custom_object,
            group="batch",
            version="v1",
            namespace=self.namespace,
            plural="jobs",
            body=manifest,
        )
        return created

    def delete_job(self, job: Object) -> None:
        """Ends a Job and its pods. One that is gone already is fine.

        Raises:
            ClusterError: The server refuses.
        """
        try:
            self._ask(
                Right("batch", "jobs", "delete"),
                self._batch.delete_namespaced_job,
                name=job["metadata"]["name"],
                namespace=self.namespace,
                propagation_policy="Background",
            )
        except _Missing:
            return

    def unfinished_jobs(self, run: str) -> list[Object]:
        """Jobs of a run that go on."""
        listed = self._ask(
            Right("batch", "jobs", "list"),
            self._batch.list_namespaced_job,
            namespace=self.namespace,
            label_selector=f"{RUN_LABEL}={run}",
        )
        return [job for job in listed["items"] if not ending(job) and "deletionTimestamp" not in job["metadata"]]

    def pods(self, job: Object) -> list[Object]:
        """The pods of a Job, those that ended included."""
        listed = self._ask(
            Right("", "pods", "list"),
            self._core.list_namespaced_pod,
            namespace=self.namespace,
            label_selector=f"{_JOB_LABEL}={job['metadata']['name']}",
        )
        return list(listed["items"])

    @contextmanager
    def following(self, job: Object, changed: threading.Event) -> Iterator[tuple[Follower, Follower]]:
        """Views of a Job and of its pods that keep up to date.

        Args:
            job: The Job.
            changed: Set whenever there is something new.
        """
        name = job["metadata"]["name"]
        jobs = Follower(
            self._batch.list_namespaced_job,
            changed,
            namespace=self.namespace,
            field_selector=f"metadata.name={name}",
        )
        pods = Follower(
            self._core.list_namespaced_pod,
            changed,
            namespace=self.namespace,
            label_selector=f"{_JOB_LABEL}={name}",
        )
        with jobs, pods:
            yield jobs, pods

    def log(self, pod_name: str, num_lines: int) -> str:
        """The end of what a pod wrote.

        Raises:
            ClusterError: It can't be read.
        """
        right = Right("", "pods/log", "get")
        with self._translated(right):
            response = self._core.read_namespaced_pod_log(
                name=pod_name,
                namespace=self.namespace,
                tail_lines=num_lines,
                _preload_content=False,
                _request_timeout=_TIMEOUT_S,
            )
            return bytes(response.data).decode(errors="replace")  # type: ignore[attr-defined]

    def last_warning(self, uid: str) -> str:
        """What the cluster last complained about an object; empty for nothing.

        Complaints of the scheduler are left out: a pod's own condition tells them, and tells when they are over.
        """
        listed = self._ask(
            Right("", "events", "list"),
            self._core.list_namespaced_event,
            namespace=self.namespace,
            field_selector=f"involvedObject.uid={uid},type=Warning,reason!=FailedScheduling",
        )
        events = sorted(listed["items"], key=lambda event: str(event.get("lastTimestamp") or event.get("eventTime")))
        return f"{events[-1].get('reason', '')}: {events[-1].get('message', '')}" if events else ""

    def queue_message(self, job: Object) -> str:
        """What Kueue says about a Job that it doesn't admit; empty for nothing yet."""
        listed = self._ask(
            Right(KUEUE, "workloads", "list"),
            self._objects.list_namespaced_custom_object,
            **self._kueue("workloads"),
            label_selector=f"kueue.x-k8s.io/job-uid={job['metadata']['uid']}",
        )
        for workload in listed["items"]:
            for condition in workload.get("status", {}).get("conditions", []):
                if condition["type"] == "QuotaReserved" and condition["status"] == "False":
                    return str(condition.get("message", ""))
        return ""

    def _kueue(self, plural: str) -> dict[str, str]:
        return {"group": KUEUE, "version": self._kueue_version, "namespace": self.namespace, "plural": plural}

    @cached_property
    def _kueue_version(self) -> str:
        groups = self._ask(Right("", "apis", "get"), client.ApisApi(self._api).get_api_versions)["groups"]
        versions = {group["name"]: group["preferredVersion"]["version"] for group in groups}
        if KUEUE not in versions:
            raise ClusterError(f"a queue is asked for, but Kueue isn't installed: the cluster has no API {KUEUE}")
        return str(versions[KUEUE])

    def _ask(self, right: Right, call: Callable[..., Any], **arguments: Any) -> Any:
        with self._translated(right):
            response = call(**arguments, _preload_content=False, _request_timeout=_TIMEOUT_S)
            return json.loads(response.data)

    @contextmanager
    def _translated(self, right: Right) -> Iterator[None]:
        try:
            yield
        except ApiException as error:
            raise self.refusal(right, error) from error
        except (HTTPError, OSError, json.JSONDecodeError) as error:
            raise ClusterError(
                f"the API server {self._api.configuration.host} doesn't answer ({error}): is KUBECONFIG right, and "
                "is the cluster up?"
            ) from error

    def refusal(self, right: Right, error: ApiException) -> ClusterError:
        """What a refusal of the server means.

        Args:
            right: What was tried.
            error: What came back.
        """
        said = _message(error)
        if error.status == _FORBIDDEN and "is forbidden: User" in said:
            return ClusterError(f"{self._no_right([right])}\n{said}")
        if error.status == _UNAUTHORIZED:
            return ClusterError(
                f"the API server {self._api.configuration.host} doesn't know these credentials, or they ran out: "
                "log in again, or give another KUBECONFIG"
            )
        if error.status == _NOT_FOUND:
            return _Missing(f"{right}: {said}")
        if error.status is not None and (error.status == _TOO_MANY or error.status >= _SERVER):
            return ClusterBusy(f"{right}: {said}")
        return ClusterError(f"{right}: {said}")

    def _no_right(self, missing: list[Right]) -> str:
        return (
            f"no right in the namespace {self.namespace} to {', '.join(map(str, missing))}. The Role "
            f"{self.template_name} of the release gives it to the subjects in labeler.submitters (those on queues, "
            "if labeler.queueName is set): let someone who may add you there and upgrade the release"
        )


class _Missing(ClusterError):
    """The object isn't there."""


def _message(error: ApiException) -> str:
    try:
        return str(json.loads(error.body or "")["message"])
    except (TypeError, ValueError, KeyError):
        return f"{error.status} {error.reason}"
