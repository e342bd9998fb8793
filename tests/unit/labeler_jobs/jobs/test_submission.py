"""The chain of Jobs, against a server on loopback that plays the Job controller."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import pytest

from labeler_jobs.jobs import submission as module
from labeler_jobs.jobs.cluster import Cluster
from labeler_jobs.jobs.connection import ClusterError
from labeler_jobs.jobs.manifest import JobOptions, stage_job
from labeler_jobs.jobs.submission import Submission, SubmissionError
from labeler_jobs.jobs.survey import Survey
from tests.unit.labeler_jobs.jobs.api_server import NAMESPACE, ApiServer, Object
from tests.unit.labeler_jobs.jobs.samples import OPTIONS, container_of, pod, template

STAGES = ("responses", "prefill")
NEEDS: dict[str, tuple[str, ...]] = {"responses": (), "prefill": ("responses",)}
TERMINATED = {"terminated": {"exitCode": 1, "reason": "Error"}}


@dataclass
class Shown:
    """A `View` that remembers."""

    stages: list[tuple[str, int, int]] = field(default_factory=list)
    counts: list[tuple[int, int, int]] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    logs: dict[str, str] = field(default_factory=dict)

    def start(self, stage: str, num_shards: int, num_done: int) -> None:
        self.stages.append((stage, num_shards, num_done))

    def update(self, num_done: int, num_running: int, num_failed: int) -> None:
        self.counts.append((num_done, num_running, num_failed))

    def say(self, message: str) -> None:
        self.said.append(message)

    def show_log(self, title: str, log: str) -> None:
        self.logs[title] = log


class Controller:
    """Runs every Job to its end, as it is told."""

    def __init__(self, server: ApiServer, missing: dict[str, list[int]]) -> None:
        self.server = server
        self.missing = missing
        self.jobs: list[Object] = []
        self.failing: dict[str, list[int]] = {}
        self.plan_log = Survey(missing, NEEDS).to_json()
        self.before: Callable[[Object], None] = lambda job: None

    def run(self, job: Object) -> None:
        self.jobs.append(job)
        self.before(job)
        name, stage = job["metadata"]["name"], job["metadata"]["labels"]["trivium/stage"]
        failed = self.failing.get(stage, [])
        for index in range(job["spec"]["completions"]):
            ended = pod(f"{name}-{index}", index, "Failed" if index in failed else "Succeeded", TERMINATED)
            ended["metadata"]["labels"] = {"batch.kubernetes.io/job-name": name}
            self.server.logs[ended["metadata"]["name"]] = self.plan_log if stage == "plan" else f"log of {index}"
            self.server.put("pods", ended)
        done = [index for index in range(job["spec"]["completions"]) if index not in failed]
        job["status"] = {
            "completedIndexes": ",".join(map(str, done)),
            "failedIndexes": ",".join(map(str, failed)),
            "conditions": [
                {"type": "Failed" if failed else "Complete", "status": "True", "message": "Job has failed indexes"}
            ],
        }
        self.server.put("jobs", job)


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_TICK_S", 0.05)
    monkeypatch.setattr(module, "_ASK_EVERY_S", 0.05)
    monkeypatch.setattr(module, "_STUCK_S", 0.2)


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with ApiServer() as server:
        yield server


@pytest.fixture
def controller(server: ApiServer) -> Controller:
    controller = Controller(server, {"responses": [0, 1, 2, 3], "prefill": [0, 1, 2, 3]})
    server.on_job = controller.run
    return controller


@pytest.fixture
def shown() -> Shown:
    return Shown()


def submission(server: ApiServer, shown: Shown, options: JobOptions = OPTIONS) -> Submission:
    cluster = Cluster(server.client(), NAMESPACE, "mine-trivium-labeler")
    return Submission(cluster, template(), options, shown)


def stages_of(jobs: list[Object]) -> list[str]:
    return [job["metadata"]["labels"]["trivium/stage"] for job in jobs]


def test_chain_runs_one_job_a_stage_after_the_plan(server: ApiServer, controller: Controller, shown: Shown) -> None:
    submission(server, shown).run(STAGES, ["responses"])
    assert stages_of(controller.jobs) == ["plan", "responses", "prefill"]
    assert shown.stages == [("plan", 1, 0), ("responses", 4, 0), ("prefill", 4, 0)]
    assert shown.counts[-1] == (4, 0, 0)
    gpus = [container_of(job)["resources"]["limits"].get("nvidia.com/gpu") for job in controller.jobs]
    assert gpus == [None, "1", None]
    left = {job["metadata"]["labels"]["trivium/stage"] for job in server.objects["jobs"].values()}
    assert left == {"responses", "prefill"}


def test_only_missing_shards_are_submitted(server: ApiServer, controller: Controller, shown: Shown) -> None:
    controller.plan_log = Survey({"responses": [], "prefill": [1, 3]}, NEEDS).to_json()
    submission(server, shown).run(STAGES, STAGES)
    assert stages_of(controller.jobs) == ["plan", "prefill"]
    assert controller.jobs[-1]["spec"]["completions"] == 2
    assert container_of(controller.jobs[-1])["args"][-2:] == ["--shard-map", "1,3"]
    assert shown.stages == [("plan", 1, 0), ("responses", 4, 4), ("prefill", 4, 2)]
    assert shown.counts[-1] == (4, 0, 0)


def test_failed_shards_are_named_with_their_logs_and_end_the_chain(
    server: ApiServer, controller: Controller, shown: Shown
) -> None:
    controller.plan_log = Survey({"responses": [1, 2, 3], "prefill": [1, 2, 3]}, NEEDS).to_json()
    controller.failing = {"responses": [0, 2]}
    with pytest.raises(SubmissionError, match=r"responses: the shards 1,3 failed: .*\n.*run the same command again"):
        submission(server, shown).run(STAGES, STAGES)
    assert stages_of(controller.jobs) == ["plan", "responses"]
    assert [title.partition(", pod")[0] for title in shown.logs] == ["shard 1", "shard 3"]
    assert list(shown.logs.values()) == ["log of 0", "log of 2"]
    assert all("exit code 1" in title for title in shown.logs)


def test_folder_of_another_run_is_refused_in_the_pods_own_words(
    server: ApiServer, controller: Controller, shown: Shown
) -> None:
    controller.failing = {"plan": [0]}
    controller.plan_log = "a warning\nerror: /labels/train/plan.json: num_queries is 4, this run's is 5\n"
    with pytest.raises(SubmissionError, match=r"^/labels/train/plan.json: num_queries is 4, this run's is 5$"):
        submission(server, shown).run(STAGES, STAGES)
    assert server.objects["jobs"] == {}


def test_plan_that_says_nothing_is_shown_as_it_is(server: ApiServer, controller: Controller, shown: Shown) -> None:
    controller.plan_log = "something else"
    with pytest.raises(
        SubmissionError, match=r"no line of it says which shards are missing; its log:\nsomething else"
    ):
        submission(server, shown).run(STAGES, STAGES)


def test_stage_whose_input_is_missing_is_refused_before_it_is_submitted(
    server: ApiServer, controller: Controller, shown: Shown
) -> None:
    with pytest.raises(
        SubmissionError, match="prefill: the stage 'responses' comes first: its shards 0-3 are missing"
    ):
        submission(server, shown).run(["prefill"], STAGES)
    assert stages_of(controller.jobs) == ["plan"]


def running_job(server: ApiServer, controller: Controller, shown: Shown) -> Object:
    """A Job of a submitter that went away."""
    server.on_job = lambda job: None
    manifest = stage_job(template(), OPTIONS, "responses", [2, 3], True)
    job = submission(server, shown)._cluster.create_job(manifest)
    server.on_job = controller.run
    return job


def test_job_that_goes_on_already_is_watched_and_not_submitted_twice(
    server: ApiServer, controller: Controller, shown: Shown
) -> None:
    job = running_job(server, controller, shown)
    controller.plan_log = Survey({"responses": [], "prefill": []}, NEEDS).to_json()
    threading.Timer(0.3, controller.run, [job]).start()
    submission(server, shown).run(STAGES, STAGES)
    assert stages_of(controller.jobs) == ["responses", "plan"]
    assert shown.stages[0] == ("responses", 4, 2)
    assert shown.said == [f"the Job {job['metadata']['name']} goes on already"]


def test_job_of_the_same_folder_with_other_options_is_not_touched(
    server: ApiServer, controller: Controller, shown: Shown
) -> None:
    running_job(server, controller, shown)
    with pytest.raises(
        SubmissionError, match=r"other options \(--out /labels/train --shards 4 --limit 8\): wait for"
    ):
        submission(server, shown, replace(OPTIONS, arguments=("--limit", "9"))).run(STAGES, STAGES)
    assert controller.jobs == []


def test_job_that_is_deleted_is_no_silent_wait(server: ApiServer, shown: Shown) -> None:
    server.on_job = lambda job: threading.Timer(0.2, server.remove, ["jobs", job["metadata"]["name"]]).start()
    with pytest.raises(SubmissionError, match="was deleted before its end"):
        submission(server, shown).run(STAGES, STAGES)


def test_image_that_cannot_be_pulled_ends_the_plan(server: ApiServer, shown: Shown) -> None:
    def stuck(job: Object) -> None:
        waits = {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}
        item = pod(state=waits)
        item["metadata"]["labels"] = {"batch.kubernetes.io/job-name": job["metadata"]["name"]}
        server.put("pods", item)

    server.on_job = stuck
    with pytest.raises(SubmissionError, match=r"1 pod waits: ImagePullBackOff: no such image\n.*images.registry"):
        submission(server, shown).run(STAGES, STAGES)
    assert shown.said == ["1 pod waits: ImagePullBackOff: no such image"]
    assert server.objects["jobs"] == {}


def test_reason_why_no_pod_comes_up_is_said_once(server: ApiServer, controller: Controller, shown: Shown) -> None:
    def complain(job: Object) -> None:
        about = {"involvedObject": {"uid": job["metadata"]["uid"]}, "type": "Warning", "reason": "FailedCreate"}
        for number in (1, 2):
            said = {"message": f"exceeded quota {number}", "lastTimestamp": f"2026-01-01T00:00:0{number}Z"}
            server.put("events", {"metadata": {"name": f"{job['metadata']['name']}-{number}"}, **about, **said})
        over = {"reason": "FailedScheduling", "message": "no room", "lastTimestamp": "2026-01-01T00:00:03Z"}
        server.put("events", {"metadata": {"name": f"{job['metadata']['name']}-over"}, **about, **over})
        time.sleep(0.4)

    controller.before = complain
    submission(server, shown).run(["responses"], STAGES)
    assert shown.said == ["FailedCreate: exceeded quota 2"] * 2


def test_suspended_job_says_what_its_queue_says(server: ApiServer, controller: Controller, shown: Shown) -> None:
    def admit_late(job: Object) -> None:
        uid, condition = job["metadata"]["uid"], {"type": "QuotaReserved", "status": "False", "message": "no room"}
        server.put(
            "workloads",
            {"metadata": {"labels": {"kueue.x-k8s.io/job-uid": uid}}, "status": {"conditions": [condition]}},
        )
        time.sleep(0.4)
        job["spec"]["suspend"] = False

    server.groups = {"kueue.x-k8s.io": "v1beta1"}
    controller.before = admit_late
    submission(server, shown, replace(OPTIONS, queue="gpus")).run(["responses"], STAGES)
    assert set(shown.said) == {"the Job is suspended", "waits for its queue gpus: no room"}


def test_explanation_that_cannot_be_had_ends_nothing(server: ApiServer, controller: Controller, shown: Shown) -> None:
    server.refusals["GET", "events"] = (500, "etcd is slow")
    controller.before = lambda job: time.sleep(0.3)
    submission(server, shown).run(["responses"], STAGES)
    assert [path for _, path in server.requests if "/events" in path]
    assert shown.said == []


def test_server_that_goes_away_is_waited_for(
    server: ApiServer, controller: Controller, shown: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_AWAY_S", 0.2)

    def vanish(job: Object) -> None:
        if job["metadata"]["labels"]["trivium/stage"] == "responses":
            server.is_away = True
            server.drop_connections()
            time.sleep(1.0)
            server.is_away = False

    controller.before = vanish
    submission(server, shown).run(["responses"], STAGES)
    assert shown.counts[-1] == (4, 0, 0)
    assert [line.partition(";")[0] for line in shown.said] == [
        "the API server doesn't answer", "the API server answers again"
    ]  # fmt: skip


def test_busy_server_is_tried_again_and_given_up_in_the_end(
    server: ApiServer, controller: Controller, shown: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_TRY_EVERY_S", 0.05)
    server.refusals["POST", "jobs"] = (500, "failed calling webhook")
    threading.Timer(0.5, server.refusals.clear).start()
    submission(server, shown).run(["responses"], STAGES)
    assert shown.said == ["create jobs.batch: failed calling webhook; tries again"]
    monkeypatch.setattr(module, "_BUSY_S", 0.1)
    server.refusals["POST", "jobs"] = (429, "too many requests")
    with pytest.raises(ClusterError, match=r"create jobs\.batch: too many requests"):
        submission(server, shown).run(["responses"], STAGES)


def test_right_that_is_taken_away_meanwhile_is_named(server: ApiServer, shown: Shown) -> None:
    forbidden = 'pods is forbidden: User "ada" cannot list resource "pods"'

    def forbid(job: Object) -> None:
        server.refusals["GET", "pods"] = (403, forbidden)
        server.drop_connections()

    server.on_job = forbid
    with pytest.raises(ClusterError, match=r'Role mine-trivium-labeler .*\n.*User "ada" cannot list'):
        submission(server, shown).run(STAGES, STAGES)
