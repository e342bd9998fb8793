"""The steps of the evidence, in order. A step whose output is there is skipped, so the same command goes on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from evaluation.evidence.calibration import calibrate
from evaluation.evidence.decodes import alone_jobs, oracle_jobs, outcome_jobs, routed_jobs, run_jobs
from evaluation.evidence.labels import label, report_labeling
from evaluation.evidence.models import train_mid, train_router
from evaluation.evidence.plan import LABEL_SETS, ROUTER_CONFIGS, Evidence
from evaluation.evidence.query_level import route_queries
from evaluation.evidence.single_stream import measure_speed
from evaluation.evidence.token_analysis import analyse_tokens
from evaluation.records.results_files import (
    Labeling,
    QueryRouting,
    ResultsError,
    Routers,
    Speed,
    Sweeps,
    TokenAnalysis,
)
from evaluation.records.run_records import RecordError
from labeler_jobs.models.identity import IdentityError
from labeler_jobs.pipeline import LabelError
from labeler_jobs.plan import PlanError
from labeler_jobs.shards.store import ShardError
from labeler_jobs.statistics import STATISTICS_FILE
from router_service.checkpoint_files import CheckpointError
from router_service.training.dataset import DatasetError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Step:
    """One step.

    Attributes:
        name: What `--only` calls it; several steps may share one.
        outputs: Files that are there once it is done.
        work: Does it.
    """

    name: str
    outputs: tuple[Path, ...]
    work: Callable[[], None]


STEP_NAMES = ("labels", "labeling", "routers", "calibration", "tokens", "decode", "oracle", "queries", "mid", "speed")
STEP_ERRORS = (
    CheckpointError, DatasetError, IdentityError, LabelError, PlanError, RecordError, ResultsError, ShardError,
)  # fmt: skip
"""What a step raises when a file or model can't be used; the message names it."""


def gather(evidence: Evidence, num_processes: int, only: Sequence[str] = ()) -> None:
    """Does whatever isn't done.

    Args:
        evidence: What is gathered.
        num_processes: Decodes at a time.
        only: Names of steps; none: all.
    """
    for step in _steps(evidence, num_processes):
        if only and step.name not in only:
            continue
        missing = [path for path in step.outputs if not path.exists()]
        if not missing:
            logger.info("%s: done", step.name)
            continue
        logger.info("%s: makes %s of %s outputs, first %s", step.name, len(missing), len(step.outputs), missing[0])
        step.work()


def _steps(evidence: Evidence, num_processes: int) -> Iterator[Step]:
    results, scale = evidence.results, evidence.scale
    for name in LABEL_SETS:
        yield Step("labels", (evidence.labels(name) / STATISTICS_FILE,), partial(label, evidence, name))
    yield Step("labeling", (results / Labeling.name,), partial(report_labeling, evidence))
    for method in ROUTER_CONFIGS:
        for seed in scale.seeds:
            folder = evidence.router(method, seed)
            yield Step("routers", (folder / "router.json",), partial(train_router, evidence, method, seed))
    yield Step("calibration", (results / Routers.name, results / Sweeps.name), partial(calibrate, evidence))
    yield Step("tokens", (results / TokenAnalysis.name,), partial(analyse_tokens, evidence))
    alone = [*alone_jobs(evidence, ("slm", "llm")), *outcome_jobs(evidence)]
    yield Step("decode", tuple(job.path for job in alone), partial(run_jobs, alone, num_processes))
    # Which runs there are follows from the thresholds, which are there by now.
    routed = routed_jobs(evidence) if (results / Routers.name).exists() else []
    yield Step("decode", tuple(job.path for job in routed), partial(run_jobs, routed, num_processes))
    oracle = oracle_jobs(evidence)
    yield Step("oracle", tuple(job.path for job in oracle), partial(run_jobs, oracle, num_processes))
    yield Step("queries", (results / QueryRouting.name,), partial(route_queries, evidence))
    yield Step("mid", (evidence.mid / "model.safetensors",), partial(train_mid, evidence))
    mid = alone_jobs(evidence, ("mid",))
    yield Step("mid", tuple(job.path for job in mid), partial(run_jobs, mid, num_processes))
    yield Step("speed", (results / Speed.name,), partial(measure_speed, evidence))
