"""`trivium train` and `trivium calibrate`, from made datasets to a checkpoint."""

import hashlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from trivium.v1 import orchestrator_pb2

from router_service.checkpoint import load_checkpoint
from router_service.checkpoint_files import WEIGHTS_FILE
from services.cli.__main__ import app
from services.cli.errors import CliError
from services.cli.train.options import CalibrationTarget, calibration_target
from tests.unit.cli.fakes import FakeOrchestrator, serving_orchestrator
from tests.unit.router_service.made import RECIPE, made_data, made_identities, made_models, made_table, write_dataset


@dataclass(frozen=True)
class Made:
    """A pair, its datasets, and a router trained on them."""

    folder: Path

    def arguments(self, *names: str) -> list[str]:
        paths = {
            "--data": "train/dataset",
            "--validation": "validation/dataset",
            "--config": "recipe.yaml",
            "--pair": "pair.yaml",
        }
        return [part for name in names for part in (name, str(self.folder / paths[name]))]

    def train(self, out: Path, *more: str) -> None:
        trivium("train", *self.arguments("--data", "--validation", "--config", "--pair"), "--out", str(out), *more)

    def calibrate(self, checkpoint: Path, *more: str) -> None:
        trivium("calibrate", str(checkpoint), *self.arguments("--validation", "--pair"), *more)


def trivium(*arguments: str) -> None:
    app(arguments, standalone_mode=False)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("made")
    slm_dir, llm_dir = made_models(folder)
    identities = made_identities(slm_dir, llm_dir)
    for name, rows, seed in (("train", 600, 1), ("validation", 400, 2)):
        write_dataset(folder / name / "dataset", made_table(made_data(rows, seed), identities))
    queries = folder / "validation" / "queries"
    queries.mkdir()
    pq.write_table(pa.table({"query": ["one?", "two?", "three?"]}), queries / "part-00000-of-00001.parquet")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE.model_dump(mode="json")))
    pair = {
        "name": "made",
        "description": "For tests.",
        "slm": {"model": "./slm"},
        "llm": {"model": "./llm"},
        "router": {},
    }
    (folder / "pair.yaml").write_text(yaml.safe_dump(pair))
    made = Made(folder)
    made.train(folder / "router", "--target-recall", "0.9")
    return made


@pytest.fixture
def checkpoint(made: Made, tmp_path: Path) -> Path:
    shutil.copytree(made.folder / "router", tmp_path / "router")
    return tmp_path / "router"


def test_train_writes_a_checkpoint_for_its_target_and_prints_what_it_came_to(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made.train(tmp_path / "router", "--target-llm-usage", "0.3", "--seed", "2", "--device", "cpu")
    metrics = load_checkpoint(tmp_path / "router").description.metrics
    assert metrics["validation_llm_usage_rate"] == pytest.approx(0.3, abs=0.01)
    assert metrics["seed"] == 2
    printed = capsys.readouterr()
    assert "made-slm" in printed.out
    assert "recall %" in printed.out
    assert str(tmp_path / "router") in printed.err.replace("\n", "")


def test_train_over_a_checkpoint_needs_to_be_told(made: Made, checkpoint: Path) -> None:
    before = (checkpoint / WEIGHTS_FILE).read_bytes()
    with pytest.raises(CliError, match="holds a checkpoint; --overwrite replaces it"):
        made.train(checkpoint, "--seed", "3")
    assert (checkpoint / WEIGHTS_FILE).read_bytes() == before
    made.train(checkpoint, "--seed", "3", "--overwrite")
    assert (checkpoint / WEIGHTS_FILE).read_bytes() != before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config", "refrence"], "no router recipe 'refrence', .*: did you mean 'reference'"),
        (["--pair", "refrence"], "no pair 'refrence'"),
        (["--data", "nowhere"], "nowhere: no shard"),
        (["--target-recall", "0.9", "--target-llm-usage", "0.1"], "give one of --target-llm-usage"),
        (["--target-llm-usage", "0"], "llm_usage_rate can't be 0: it is a share between 0 and 1"),
        (["--target-avg-params-b", "1"], "avg_activated_params_b can't be 1: the pair takes"),
        (["--config", "reference"], "'top_logits' has 5 columns, the recipe 'reference' reads 100"),
    ],
)
def test_train_bad_input_is_one_error(made: Made, tmp_path: Path, arguments: list[str], message: str) -> None:
    with pytest.raises(CliError, match=message):
        made.train(tmp_path / "router", *arguments)
    assert not (tmp_path / "router" / WEIGHTS_FILE).exists()


@pytest.mark.parametrize(
    ("option", "value", "metric"),
    [
        ("--target-llm-usage", 0.25, "llm_usage_rate"),
        ("--target-recall", 0.5, "recall"),
        ("--target-avg-params-b", 6e-6, "avg_activated_params_b"),
    ],
)
def test_calibrate_target_becomes_the_default_threshold(
    made: Made, checkpoint: Path, option: str, value: float, metric: str, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = (checkpoint / WEIGHTS_FILE).read_bytes()
    made.calibrate(checkpoint, option, str(value))
    description = load_checkpoint(checkpoint).description
    assert description.metrics[f"validation_{metric}"] == pytest.approx(value, rel=0.05)
    assert description.threshold != 0.5
    assert (checkpoint / WEIGHTS_FILE).read_bytes() == weights
    assert {"sweep.png", "sweep.svg"} <= {path.name for path in (checkpoint / "training").iterdir()}
    printed = capsys.readouterr()
    assert f"{description.threshold:.6f}" in printed.out
    assert printed.out.count("\n") > 30


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give one of"),
        (["--target-recall", "0.9", "--target-avg-params-b", "1"], "give one of"),
        (["--target-avg-params-b", "1"], "avg_activated_params_b can't be 1: the pair takes"),
        (["--target-recall", "0.9", "--validation", "nowhere"], "nowhere: no shard"),
    ],
)
def test_calibrate_bad_input_leaves_the_checkpoint_alone(
    made: Made, checkpoint: Path, arguments: list[str], message: str
) -> None:
    before = load_checkpoint(checkpoint).description
    with pytest.raises(CliError, match=message):
        made.calibrate(checkpoint, *arguments)
    assert load_checkpoint(checkpoint).description == before


def test_calibrate_dataset_of_another_pair_is_refused(made: Made, checkpoint: Path, tmp_path: Path) -> None:
    identities = made_identities(made.folder / "llm", made.folder / "llm")
    data = made_data(50, seed=1)
    wide = type(data)(data.hidden_state.repeat(1, 3)[:, :16], data.top_logits, data.token_ids, data.labels)
    folder = write_dataset(tmp_path / "dataset", made_table(wide, identities))
    with pytest.raises(CliError, match=r"was labelled with slm 'made-slm' at revision"):
        made.calibrate(checkpoint, "--target-recall", "0.9", "--validation", str(folder))


def test_calibrate_router_that_tells_nothing_is_warned_of(
    made: Made, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made.calibrate(checkpoint, "--target-recall", "0.9")
    assert "warning" not in capsys.readouterr().err
    data = made_data(400, seed=5)
    labels = data.labels[torch.randperm(400, generator=torch.Generator().manual_seed(0))]
    table = made_table(replace(data, labels=labels), made_identities(made.folder / "slm", made.folder / "llm"))
    noise = write_dataset(tmp_path / "noise", table)
    made.calibrate(checkpoint, "--target-recall", "0.9", "--validation", str(noise))
    assert "warning: an AUC of 0." in capsys.readouterr().err


class PricedOrchestrator(FakeOrchestrator):
    """Serves the router of a checkpoint; its LLM usage is half of 1 - threshold."""

    def __init__(self, checkpoint: Path) -> None:
        super().__init__()
        self.weights_sha256 = hashlib.sha256((checkpoint / WEIGHTS_FILE).read_bytes()).hexdigest()

    def Generate(
        self, request: orchestrator_pb2.GenerateRequest, context: object
    ) -> Iterator[orchestrator_pb2.GenerateResponse]:
        self.requests.append(request)
        usage = orchestrator_pb2.Usage(
            num_llm_tokens=round(500 * (1 - request.threshold)), num_completion_tokens=1000
        )
        yield orchestrator_pb2.GenerateResponse(
            token_ids=[1] * 1000,
            sources=[orchestrator_pb2.TOKEN_SOURCE_SLM] * 1000,
            divergence_probabilities=[0.0] * 1000,
            text_lengths=[0] * 1000,
        )
        yield orchestrator_pb2.GenerateResponse(
            finish=orchestrator_pb2.Finish(reason=orchestrator_pb2.FINISH_REASON_STOP, usage=usage)
        )

    def GetServerInfo(
        self, request: orchestrator_pb2.OrchestratorServiceGetServerInfoRequest, context: object
    ) -> orchestrator_pb2.OrchestratorServiceGetServerInfoResponse:
        info = orchestrator_pb2.OrchestratorServiceGetServerInfoResponse()
        info.router.weights_sha256 = self.weights_sha256
        return info


def test_calibrate_on_a_running_pair_meets_targets_by_what_it_measured(made: Made, checkpoint: Path) -> None:
    orchestrator = PricedOrchestrator(checkpoint)
    with serving_orchestrator(orchestrator) as address:
        made.calibrate(checkpoint, "--target-llm-usage", "0.3", "--decode-on", address, "--num-queries", "2")
    description = load_checkpoint(checkpoint).description
    assert description.threshold == pytest.approx(1 - 2 * 0.3, abs=0.01)
    measured = [row for row in description.sweep if row.decoded_llm_usage_rate is not None]
    assert len(measured) == 7
    for row in measured:
        assert row.decoded_llm_usage_rate == pytest.approx((1 - row.threshold) / 2, abs=0.002)
    assert len(orchestrator.requests) == 14
    assert {request.chat.messages[0].content for request in orchestrator.requests} == {"one?", "two?"}


def test_calibrate_on_a_pair_with_another_router_is_refused(made: Made, checkpoint: Path) -> None:
    orchestrator = PricedOrchestrator(checkpoint)
    orchestrator.weights_sha256 = "ab" * 32
    with serving_orchestrator(orchestrator) as address, pytest.raises(CliError, match="of weights abababababab"):
        made.calibrate(checkpoint, "--target-llm-usage", "0.3", "--decode-on", address)


def test_calibration_target_is_the_one_that_is_given() -> None:
    assert calibration_target(None, 0.0, None) == CalibrationTarget("recall", 0.0)
    assert calibration_target(None, None, None) is None
