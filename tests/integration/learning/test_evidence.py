"""The whole road on almost nothing: every step once, then none again."""

import shutil
from pathlib import Path

import pytest

from evaluation.evidence.plan import Evidence, Scale
from evaluation.evidence.run import gather
from evaluation.records.results_files import Labeling, QueryRouting, Routers, Speed, Sweeps, TokenAnalysis
from evaluation.records.run_records import load_all
from evaluation.reference.pair import WEIGHTS_DIR

TINY = Scale(
    train_queries=8,
    validation_queries=6,
    held_out_queries=4,
    outcome_queries=24,
    seeds=(1,),
    targets=(0.10,),
    ablation_targets=(0.10,),
    rule_targets=(0.10,),
    mid_samples=30,
    mid_steps=1,
    speed_questions=1,
    speed_repetitions=1,
    cost_ratio=8.0,
    max_new_tokens=150,
    label_shards=1,
)


@pytest.fixture(scope="module")
def evidence(tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    folder = tmp_path_factory.mktemp("evidence")
    shutil.copytree(WEIGHTS_DIR, folder / "weights", ignore=shutil.ignore_patterns("mid"))
    evidence = Evidence(folder / "build", folder / "results", folder / "weights", TINY)
    gather(evidence, num_processes=1)
    return evidence


def modified(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_gather_second_time_makes_nothing(evidence: Evidence) -> None:
    before = modified(evidence.build) | modified(evidence.results)
    gather(evidence, num_processes=1)
    assert modified(evidence.build) | modified(evidence.results) == before


def test_gather_runs_cover_every_method(evidence: Evidence) -> None:
    runs = {records.run.run_id: records for records in load_all(evidence.runs)}
    routed = {"r2r", "different", "hs_tok", "hs", "entropy", "aleatoric", "random"}
    by_query = {"qr_sw", "qr_mf", "qr_encoder", "qr_llm"}
    assert {records.run.method for records in runs.values()} == {"slm", "llm", "mid", "oracle"} | routed | by_query
    assert all(records.table.num_rows == 4 for records in runs.values())
    assert runs["r2r-u10-seed1"].run.model_params_b.keys() == {"slm", "llm", "router"}


def test_gather_files_can_be_read(evidence: Evidence) -> None:
    folder = evidence.results
    assert {row.domain for row in Labeling.load(folder).sets["train"]} == {"math", "code", "qa", "all"}
    assert {router.method for router in Routers.load(folder).routers} >= {"r2r", "random"}
    assert all(len(sweep.rows) > 10 for sweep in Sweeps.load(folder).sweeps)
    assert sum(TokenAnalysis.load(folder).entropy.counts["identical"]) > 100
    assert QueryRouting.load(folder).num_train_queries == 24


def test_gather_speed_compares_equal_outputs(evidence: Evidence) -> None:
    speed = Speed.load(evidence.results)
    rows = {(row.method, row.llm): row for row in speed.rows}
    for llm in ("reference", "inflated"):
        assert rows["llm", llm].equal_to_llm == rows["speculative", llm].equal_to_llm == 1.0
        assert 0.0 < (rows["speculative", llm].accepted_rate or 0.0) < 1.0
    assert speed.cost_ratio.keys() == {"reference", "inflated"}
    # Weights, not measured times: another process may slow down any step.
    assert speed.llm_params_b["inflated"] > speed.llm_params_b["reference"]
