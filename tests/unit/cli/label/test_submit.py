"""`trivium label submit`, against an API server on loopback."""

import _thread
import signal
from collections.abc import Callable, Iterator

import pytest
from kubernetes import client
from typer.testing import CliRunner, Result

from labeler_jobs.jobs.survey import Survey
from labeler_jobs.stages.registry import STAGES
from services.cli.__main__ import app
from services.cli.errors import CliError
from services.cli.label import submit as module
from services.cli.label.options import LabelStage
from services.cli.pairs import find_pair
from services.common.pair import load_pair
from tests.unit.labeler_jobs.jobs.api_server import NAMESPACE, ApiServer, Object
from tests.unit.labeler_jobs.jobs.samples import container_of, pod, template

Submit = Callable[..., Result]
NAMES = [stage.value for stage in LabelStage if stage is not LabelStage.ALL]


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with ApiServer() as server:
        server.put("podtemplates", template())
        server.on_job = lambda job: finish(server, job)
        yield server


@pytest.fixture
def submit(server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> Submit:
    def connect(context: str | None) -> tuple[client.ApiClient, str]:
        return server.client(), NAMESPACE

    monkeypatch.setattr(module, "connect", connect)

    def run(*arguments: str) -> Result:
        arguments = ("label", "submit", "--release", "mine", "--out", "train", "--shards", "2", *arguments)
        result = CliRunner().invoke(app, arguments)
        if isinstance(result.exception, CliError):
            raise result.exception
        return result

    return run


def finish(server: ApiServer, job: Object) -> None:
    """Plays the Job controller: everything succeeds at once, and nothing was there before."""
    name = job["metadata"]["name"]
    server.logs[name] = Survey({stage: [0, 1] for stage in NAMES}, dict.fromkeys(NAMES, ())).to_json()
    ended = pod(name, phase="Succeeded")
    ended["metadata"]["labels"] = {"batch.kubernetes.io/job-name": name}
    server.put("pods", ended)
    indexes = ",".join(map(str, range(job["spec"]["completions"])))
    job["status"] = {"completedIndexes": indexes, "conditions": [{"type": "Complete", "status": "True"}]}
    server.put("jobs", job)


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """Ctrl-C works, also where the tests run as a background job, in which it is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupt_at(server: ApiServer, stage: str) -> None:
    """Plays a user who presses Ctrl-C while a stage runs."""

    def act(job: Object) -> None:
        if job["metadata"]["labels"]["trivium/stage"] == stage:
            _thread.interrupt_main()
        else:
            finish(server, job)

    server.on_job = act


def jobs_of(server: ApiServer) -> dict[str, Object]:
    return {job["metadata"]["labels"]["trivium/stage"]: job for job in server.objects["jobs"].values()}


def test_all_submits_every_stage_with_the_options_that_are_its_own(server: ApiServer, submit: Submit) -> None:
    assert submit("--limit", "8", "--gpus", "1", "--keep-unfinished", "--source=reference").exit_code == 0
    jobs = jobs_of(server)
    assert list(jobs) == NAMES
    own = ["--out", "/labels/train", "--shards", "2", "--limit", "8", "--keep-unfinished", "--source=reference"]
    assert container_of(jobs["verify"])["args"] == ["verify", *own]
    with_gpus = [name for name in NAMES if "nvidia.com/gpu" in container_of(jobs[name])["resources"]["limits"]]
    assert with_gpus == ["responses", "prefill", "continue"]


def test_verifier_that_is_a_model_gets_gpus(server: ApiServer, submit: Submit) -> None:
    assert submit("--stage", "verify", "--verifier", "model:some/model", "--gpus", "3").exit_code == 0
    assert container_of(jobs_of(server)["verify"])["resources"]["limits"]["nvidia.com/gpu"] == "3"


def test_stages_with_a_model_are_those_that_work_on_a_device() -> None:
    pair = load_pair(find_pair("reference"))
    assert list(module._MODEL_STAGES) == [stage.name for stage in STAGES if stage.device(pair) is not None]
    assert [stage.name for stage in STAGES] == NAMES


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--release", "other"], "no PodTemplate other-trivium-labeler in the namespace labelling"),
        (["--out", "/data"], r"--out: /data isn't below /labels"),
        (["--queue", "gpus"], "Kueue isn't installed"),
        (["--verifier", "nobody"], "--verifier: 'nobody': expected 'suite', a URL"),
        (["--stage", "responses", "--verifier", "model:"], "--verifier: 'model:': expected 'suite', a URL"),
    ],
)
def test_submit_refuses_before_any_job(server: ApiServer, submit: Submit, arguments: list[str], message: str) -> None:
    with pytest.raises(CliError, match=message):
        submit(*arguments)
    assert "jobs" not in server.objects


def test_submit_without_rights_names_them(server: ApiServer, submit: Submit) -> None:
    server.missing_rights = {("create", "jobs")}
    with pytest.raises(CliError, match=r"to create jobs\.batch\. The Role mine-trivium-labeler .*labeler.submitters"):
        submit()
    assert "jobs" not in server.objects


@pytest.mark.parametrize(
    "arguments", [["--nope", "1"], ["--limit", "x"], ["--shard-index", "1"], ["--shard-map", "1"], ["stray"]]
)
def test_option_that_no_stage_takes_is_a_usage_error(server: ApiServer, submit: Submit, arguments: list[str]) -> None:
    assert submit(*arguments).exit_code == 2
    assert server.requests == []


def test_interrupted_submit_leaves_the_job_and_says_how_to_go_on(server: ApiServer, submit: Submit) -> None:
    interrupt_at(server, "prefill")
    result = submit()
    assert result.exit_code == 130
    assert list(jobs_of(server)) == ["responses", "prefill"]
    assert "goes on. The same command watches it again" in result.stderr


def test_interrupted_submit_cancels_only_when_asked(server: ApiServer, submit: Submit) -> None:
    interrupt_at(server, "prefill")
    assert submit("--cancel-on-interrupt").exit_code == 130
    assert list(jobs_of(server)) == ["responses"]


def test_interrupted_plan_leaves_nothing(server: ApiServer, submit: Submit) -> None:
    interrupt_at(server, "plan")
    assert submit().exit_code == 130
    assert server.objects["jobs"] == {}
