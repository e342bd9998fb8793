from collections.abc import Iterator

import pytest

from labeler_jobs.jobs.cluster import Cluster
from labeler_jobs.jobs.connection import ClusterError
from labeler_jobs.jobs.rights import ALWAYS, WITH_QUEUE
from tests.unit.labeler_jobs.jobs.api_server import NAMESPACE, ApiServer
from tests.unit.labeler_jobs.jobs.samples import template

NAME = "mine-trivium-labeler"
FORBIDDEN = 'podtemplates "x" is forbidden: User "ada" cannot get resource "podtemplates" in API group ""'


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with ApiServer() as server:
        yield server


@pytest.fixture
def cluster(server: ApiServer) -> Cluster:
    return Cluster(server.client(), NAMESPACE, NAME)


def test_all_rights_that_are_missing_are_named_with_the_role_that_gives_them(
    server: ApiServer, cluster: Cluster
) -> None:
    cluster.check_rights((*ALWAYS, *WITH_QUEUE))
    server.missing_rights = {("create", "jobs"), ("get", "pods/log"), ("list", "workloads")}
    with pytest.raises(ClusterError) as refusal:
        cluster.check_rights(ALWAYS)
    assert f"namespace {NAMESPACE} to create jobs.batch, get pods/log. The Role {NAME}" in str(refusal.value)
    with pytest.raises(ClusterError, match=r"get pods/log, list workloads\.kueue\.x-k8s\.io\. "):
        cluster.check_rights((*ALWAYS, *WITH_QUEUE))


def test_template_is_found(server: ApiServer, cluster: Cluster) -> None:
    server.put("podtemplates", template())
    assert cluster.template()["metadata"]["name"] == NAME


@pytest.mark.parametrize(
    ("refusal", "message"),
    [
        (None, rf"no PodTemplate {NAME} in the namespace {NAMESPACE}: .*labeler.enabled=true"),
        ((403, FORBIDDEN), rf"no right in .* to get podtemplates. The Role {NAME} .*\n.*ada"),
        ((401, "Unauthorized"), "doesn't know these credentials"),
        ((500, "etcd is gone"), "get podtemplates: etcd is gone"),
        ((403, "pods exceed their quota"), "get podtemplates: pods exceed their quota"),
    ],
    ids=["missing", "forbidden", "unauthorized", "broken", "denied"],
)
def test_refusal_says_what_to_do(
    server: ApiServer, cluster: Cluster, refusal: tuple[int, str] | None, message: str
) -> None:
    if refusal:
        server.put("podtemplates", template())
        server.refusals["GET", "podtemplates"] = refusal
    with pytest.raises(ClusterError, match=message):
        cluster.template()


def test_server_that_does_not_answer_is_named(server: ApiServer, cluster: Cluster) -> None:
    with ApiServer() as other:
        gone = Cluster(other.client(), NAMESPACE, NAME)
    with pytest.raises(ClusterError, match=r"the API server http://127.0.0.1:\d+ doesn't answer .*KUBECONFIG"):
        gone.template()


def test_queue_has_to_be_there(server: ApiServer, cluster: Cluster) -> None:
    with pytest.raises(ClusterError, match=r"Kueue isn't installed"):
        cluster.check_queue("gpus")
    server.groups = {"kueue.x-k8s.io": "v1beta2"}
    with pytest.raises(ClusterError, match=rf"no LocalQueue of that name in the namespace {NAMESPACE}"):
        cluster.check_queue("gpus")
    server.put("localqueues", {"metadata": {"name": "gpus"}})
    server.missing_rights = {("list", "workloads")}
    with pytest.raises(ClusterError, match=r"list workloads\.kueue\.x-k8s\.io\. .* if labeler.queueName is set"):
        cluster.check_queue("gpus")
    server.missing_rights = set()
    cluster.check_queue("gpus")
    assert server.requests[-1][1].startswith("/apis/kueue.x-k8s.io/v1beta2/")


def test_job_that_is_gone_is_deleted_already(server: ApiServer, cluster: Cluster) -> None:
    job = server.put("jobs", {"metadata": {"name": "job"}})
    cluster.delete_job(job)
    cluster.delete_job(job)
    assert server.objects["jobs"] == {}
