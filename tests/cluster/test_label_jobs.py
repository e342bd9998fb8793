"""`trivium label submit` on a cluster: the local run's dataset bit for bit, though pods are killed and GPUs lack."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kubernetes import client

from tests.cluster.harness import pods
from tests.cluster.harness.commands import CommandFailed, run
from tests.cluster.harness.labelling import (
    TIMEOUT_S,
    Command,
    Labeler,
    account,
    free_gpus,
    install,
    local_sums,
)

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]

NUM_SHARDS = 4
OPTIONS = ("--shards", str(NUM_SHARDS), "--limit", "8", "--max-new-tokens", "96", "--num-threads", "1")
PODS = ("--parallelism", "2", "--gpus", "1", "--queue", "")
MOST_GPUS = 16
QUEUE = "labels"


@pytest.fixture(scope="module")
def labeler(
    kube: client.CoreV1Api,
    kubectl: str,
    helm: str,
    namespace: str,
    images: tuple[str, ...],
    labels_access: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Labeler:
    directory = tmp_path_factory.mktemp("labeler")
    submitter = f"labeler.submitters[0].{{}},labeler.submitters[0].namespace={namespace}"
    submitter = submitter.format("kind=ServiceAccount,labeler.submitters[0].name=submitter")
    queue, access = f"labeler.queueName={QUEUE}", f"labeler.claim.accessModes={{{labels_access}}}"
    install(helm, kubectl, namespace, *images, "labeler.enabled=true", queue, access, submitter)
    template = kube.read_namespaced_pod_template("trivium-labeler", namespace)
    assert template.template
    assert template.template.spec
    return Labeler(
        kube=kube,
        kubectl=kubectl,
        namespace=namespace,
        image=str(template.template.spec.containers[0].image),
        admin=Path(os.environ["KUBECONFIG"]),
        submitter=account(kubectl, namespace, "submitter", directory),
        stranger=account(kubectl, namespace, "stranger", directory),
        directory=directory,
    )


@pytest.fixture(scope="module")
def gpus(kube: client.CoreV1Api) -> int:
    """How many GPUs are free, from two on: the tests take all of them for a while."""
    number = sum(free_gpus(kube).values())
    if not 2 <= number <= MOST_GPUS:
        pytest.skip(f"{number} free GPUs: these tests need 2 to {MOST_GPUS}")
    return number


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory, labeler: Labeler) -> dict[str, str]:
    """Sums of what the same options make on this machine."""
    out = tmp_path_factory.mktemp("reference") / "train"
    command = Command(
        ["label", "all", "--out", str(out), *OPTIONS], labeler.admin, labeler.directory / "reference.log"
    )
    assert command.end() == 0, command.written
    return local_sums(out)


def kill_twice(labeler: Labeler, before_second: Callable[[], None]) -> None:
    """Kills the pod of one index, and the one that takes its place."""
    first = await_running(labeler, None, "")
    index = index_of(first)
    pods.delete_at_once(labeler.kube, labeler.namespace, pods.name_of(first))
    before_second()
    second = await_running(labeler, index, pods.name_of(first))
    pods.delete_at_once(labeler.kube, labeler.namespace, pods.name_of(second))


def await_running(labeler: Labeler, index: str | None, other_than: str) -> client.V1Pod:
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        for pod in labeler.running("responses"):
            if index in (None, index_of(pod)) and pods.name_of(pod) != other_than:
                return pod
        time.sleep(0.1)
    raise AssertionError(f"no pod runs the index {index}")


def index_of(pod: client.V1Pod) -> str:
    assert pod.metadata
    assert pod.metadata.annotations
    return str(pod.metadata.annotations["batch.kubernetes.io/job-completion-index"])


@pytest.fixture(scope="module")
def train(labeler: Labeler, gpus: int) -> str:
    """A folder on the volume, labelled while all GPUs but one are taken for a while and a pod is killed twice."""
    with (
        labeler.holding_gpus(num_left=1) as give_back,
        labeler.submit("--out", "train", *OPTIONS, *PODS) as command,
    ):
        command.await_line("Insufficient nvidia.com/gpu")
        kill_twice(labeler, give_back)
        assert command.end() == 0, command.written
    return "train"


def test_dataset_equals_the_local_one_though_a_pod_is_killed_twice_and_gpus_are_missing(
    labeler: Labeler, train: str, reference: dict[str, str]
) -> None:
    assert labeler.sums(train) == reference
    [job] = labeler.jobs("responses")
    assert job.status
    assert (job.status.completed_indexes, job.status.failed) == ("0-3", 2)


def test_only_shards_that_are_missing_are_made_again(labeler: Labeler, train: str, reference: dict[str, str]) -> None:
    name = "part-{:05d}-of-00004.parquet"
    labeler.remove(f"{train}/continuations/{name.format(1)}", f"{train}/dataset/{name.format(3)}")
    before = {stage: len(labeler.jobs(stage)) for stage in ("responses", "prefill", "continue", "verify", "dataset")}
    with labeler.submit("--out", train, *OPTIONS, *PODS) as command:
        assert command.end() == 0, command.written
    new = {stage: labeler.jobs(stage)[number:] for stage, number in before.items()}
    assert {stage: len(jobs) for stage, jobs in new.items() if jobs} == {"continue": 1, "dataset": 1}
    assert [job.spec.completions for jobs in new.values() for job in jobs if job.spec] == [1, 1]
    assert labeler.sums(train) == reference


def test_folder_of_another_run_is_refused(labeler: Labeler, train: str) -> None:
    with labeler.submit("--out", train, *OPTIONS, *PODS, "--limit", "9") as command:
        assert command.end() == 1
    assert "plan.json: num_queries is 8, this run's is 9" in command.written
    assert labeler.jobs("plan") == []


def test_more_gpus_than_any_node_has_say_so_and_ctrl_c_cancels_when_asked(labeler: Labeler, gpus: int) -> None:
    asked = ("--stage", "responses", "--gpus", "999", "--queue", "", "--cancel-on-interrupt")
    with labeler.submit("--out", "many", *OPTIONS, *asked) as command:
        command.await_line("Insufficient nvidia.com/gpu")
        command.interrupt()
        assert command.end() == 130
    assert "is cancelled" in command.written
    assert labeler.jobs("", only_unfinished=True) == []


def test_image_that_cannot_be_pulled_is_refused(labeler: Labeler, helm: str, kubectl: str) -> None:
    other = ("labeler.enabled=true", "fullnameOverride=other", "images.tag=nowhere", "images.registry=127.0.0.1:1")
    install(helm, kubectl, labeler.namespace, *other, "labeler.existingClaim=trivium-labeler", parts=("podtemplate",))
    install(helm, kubectl, labeler.namespace, *other, parts=("serviceaccount",))
    with labeler.submit("--out", "x", "--template", "other-labeler", as_whom=labeler.admin) as command:
        assert command.end() == 1
    assert "no pod can start" in command.written
    assert "127.0.0.1:1/trivium-cpu:nowhere" in command.written
    assert labeler.jobs("plan") == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--release", "other"], "no PodTemplate other-trivium-labeler in the namespace"),
        (["--out", "/elsewhere"], "--out: /elsewhere isn't below /labels"),
        (["--queue", "nowhere"], "queue 'nowhere': no LocalQueue of that name"),
    ],
)
def test_what_is_not_there_is_refused_at_once(
    labeler: Labeler, kueue: str, arguments: list[str], message: str
) -> None:
    with labeler.submit("--out", "x", *arguments, as_whom=labeler.admin) as command:
        assert command.end() == 1
    assert message in command.written
    assert len(labeler.jobs("plan")) == 0


def test_account_without_rights_is_told_which_and_who_gives_them(labeler: Labeler) -> None:
    with labeler.submit("--out", "x", as_whom=labeler.stranger) as command:
        assert command.end() == 1
    assert "create jobs.batch, list jobs.batch" in command.written
    assert "The Role trivium-labeler of the release gives it" in command.written


@pytest.fixture
def kueue(labeler: Labeler) -> Iterator[str]:
    """A queue for one GPU; its name."""
    name = labeler.namespace
    covered = {"cpu": 8, "memory": "16Gi", "nvidia.com/gpu": 1}
    flavor = {"name": name, "resources": [{"name": item, "nominalQuota": quota} for item, quota in covered.items()]}
    group = {"coveredResources": list(covered), "flavors": [flavor]}
    objects = [
        _kueue("ResourceFlavor", name, {}),
        _kueue("ClusterQueue", name, {"namespaceSelector": {}, "resourceGroups": [group]}),
        _kueue("LocalQueue", QUEUE, {"clusterQueue": name}) | {"metadata": {"name": QUEUE, "namespace": name}},
    ]
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
    try:
        run(labeler.kubectl, "apply", "--filename", "-", stdin=text)
    except CommandFailed as error:
        if "no matches for kind" not in str(error):
            raise
        pytest.skip("Kueue isn't installed on this cluster")
    yield QUEUE
    run(labeler.kubectl, "delete", "--wait=false", "--filename", "-", stdin=text)


def _kueue(kind: str, name: str, spec: dict[str, object]) -> dict[str, object]:
    return {"apiVersion": "kueue.x-k8s.io/v1beta1", "kind": kind, "metadata": {"name": name}, "spec": spec}


def test_queued_job_waits_for_quota_outlives_its_submitter_and_is_admitted(
    labeler: Labeler, gpus: int, kueue: str
) -> None:
    holder = _holder(labeler, kueue)
    asked = ("--stage", "responses", "--gpus", "1", "--shards", "1", "--limit", "1", "--max-new-tokens", "32")
    with labeler.submit("--out", "queued", *asked) as command:
        command.await_line("insufficient unused quota for nvidia.com/gpu")
        command.interrupt()
        assert command.end() == 130
    assert "goes on. The same command watches it again" in command.written
    [job] = labeler.jobs("responses", only_unfinished=True)
    assert job.spec
    assert job.spec.suspend

    with labeler.submit("--out", "queued", *asked) as again:
        again.await_line("goes on already")
        client.BatchV1Api().delete_namespaced_job(holder, labeler.namespace, propagation_policy="Background")
        assert again.end() == 0, again.written
    workloads = json.loads(run(labeler.kubectl, "-n", labeler.namespace, "get", "workloads", "-o", "json"))["items"]
    assert job.metadata
    [mine] = [item for item in workloads if item["metadata"]["ownerReferences"][0]["uid"] == job.metadata.uid]
    admitted = {item["type"]: item["status"] for item in mine["status"]["conditions"]}
    assert (admitted["QuotaReserved"], admitted["Admitted"]) == ("True", "True")


def _suspended(labeler: Labeler) -> list[str]:
    jobs = client.BatchV1Api().list_namespaced_job(labeler.namespace).items
    return [str(job.metadata.name) for job in jobs if job.metadata and job.spec and job.spec.suspend]


def _holder(labeler: Labeler, queue: str) -> str:
    """Takes the GPU of the queue; the name of the Job that does."""
    pod = pods.bare_pod("holder-", labeler.image, ["python3", "-c", "import time; time.sleep(3600)"])
    assert pod.spec
    assert pod.spec.containers
    requests = {"cpu": "10m", "memory": "32Mi"}
    pod.spec.containers[0].resources = client.V1ResourceRequirements(
        requests=requests, limits={"nvidia.com/gpu": "1"}
    )
    job = client.V1Job(
        metadata=client.V1ObjectMeta(generate_name="holder-", labels={"kueue.x-k8s.io/queue-name": queue}),
        spec=client.V1JobSpec(suspend=True, template=client.V1PodTemplateSpec(spec=pod.spec)),
    )
    created = client.BatchV1Api().create_namespaced_job(labeler.namespace, job)
    assert created.metadata
    name = str(created.metadata.name)
    deadline = time.monotonic() + 120
    while name in _suspended(labeler):
        assert time.monotonic() < deadline, "Kueue doesn't admit the holder"
        time.sleep(0.5)
    return name
