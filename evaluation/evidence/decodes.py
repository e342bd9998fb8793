"""Runs on the suite's queries, several at a time in processes of one thread; each leaves its file of records."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import torch

from evaluation.decoding.alone import decode_alone
from evaluation.decoding.oracle import decode_oracle
from evaluation.decoding.response import RoutedResponse
from evaluation.decoding.routed import decode_routed
from evaluation.decoding.router_scorer import RouterScorer
from evaluation.evidence.answer_records import Answerer, answer_table
from evaluation.evidence.plan import COMMAND, ROUTER_CONFIGS, RULES, Evidence, run_name
from evaluation.records.results_files import Routers
from evaluation.records.run_records import Run, RunRecords, save_records
from evaluation.reference.corpus.samples import draw_sample
from evaluation.reference.corpus.verifier import SuiteVerifier
from evaluation.reference.pair import load_model, load_tokenizer
from labeler_jobs.models.huggingface import render_prompt
from router_service.checkpoint import count_stored_parameters, load_checkpoint, load_slm_embedding
from services.common.progress import track
from services.rules.chosen import ChosenRule
from services.rules.shipped import RouterRule

logger = logging.getLogger(__name__)

SUITE = "reference"
_ALONE: tuple[Answerer, ...] = ("slm", "llm", "mid")


@dataclass(frozen=True)
class DecodeJob:
    """One run that is to be made.

    Attributes:
        method: As in `Run.method`.
        indices: Questions, as indices of the suite.
        out: Folder of the file.
        weights: Folder of the pair.
        max_new_tokens: Limit of a response.
        commit: Of the code that runs.
        seed: As in `Run`.
        threshold: As in `Run`.
        target: As in `Run.target_llm_usage`.
        router: Checkpoint folder, where the method has one.
        prefix: Put before the run's name.
    """

    method: str
    indices: tuple[int, ...]
    out: Path
    weights: Path
    max_new_tokens: int
    commit: str
    seed: int | None = None
    threshold: float | None = None
    target: float | None = None
    router: Path | None = None
    prefix: str = ""

    @property
    def name(self) -> str:
        """The run's name."""
        return self.prefix + run_name(self.method, self.target, self.seed)

    @property
    def path(self) -> Path:
        """The run's file."""
        return self.out / f"{self.name}.parquet"


def alone_jobs(evidence: Evidence, methods: Sequence[Answerer]) -> list[DecodeJob]:
    """Models alone on the held-out queries."""
    return [_job(evidence, method) for method in methods]


def oracle_jobs(evidence: Evidence) -> list[DecodeJob]:
    """Path-following with the verifier in the loop, on the held-out queries."""
    return [_job(evidence, "oracle")]


def outcome_jobs(evidence: Evidence) -> list[DecodeJob]:
    """SLM and LLM alone on training queries."""
    indices = tuple(range(evidence.scale.outcome_queries))
    return [
        DecodeJob(
            method, indices, evidence.outcomes, evidence.weights, evidence.scale.max_new_tokens,
            evidence.provenance.commit, prefix="train-",
        )
        for method in ("slm", "llm")
    ]  # fmt: skip


def routed_jobs(evidence: Evidence) -> list[DecodeJob]:
    """Every router and rule at every target, on the held-out queries; the most wanted first."""
    scale = evidence.scale
    targets = {"r2r": scale.targets} | dict.fromkeys(RULES, scale.rule_targets)
    jobs = []
    for result in Routers.load(evidence.results).routers:
        for target in targets.get(result.method, scale.ablation_targets):
            if result.method == "random":
                # Its rate is the target.
                jobs.append(_job(evidence, "random", seed=scale.seeds[0], target=target))
                continue
            threshold = result.thresholds[f"{target:.2f}"]
            jobs.append(_job(evidence, result.method, seed=result.seed, threshold=threshold, target=target))
    wanted = ["r2r", "different", *RULES, "hs_tok", "hs"]
    return sorted(jobs, key=lambda job: (wanted.index(job.method), job.seed or 0, -(job.target or 0.0)))


def run_jobs(jobs: Sequence[DecodeJob], num_processes: int) -> None:
    """Makes the runs that are missing.

    Args:
        jobs: Runs; one whose file is there is skipped.
        num_processes: Runs at a time.
    """
    missing = [job for job in jobs if not job.path.exists()]
    if not missing:
        return
    if num_processes == 1:
        for job in track(missing, "decode"):
            logger.info("%s", run_job(job))
        return
    # Not forked: torch's threads don't survive a fork.
    context = get_context("spawn")
    with ProcessPoolExecutor(num_processes, context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        running = [pool.submit(run_job, job) for job in missing]
        for finished in track(as_completed(running), "decode", len(running)):
            logger.info("%s", finished.result())


def run_job(job: DecodeJob) -> str:
    """Decodes, grades and saves one run; returns its name with its accuracy."""
    tokenizer = load_tokenizer(job.weights / "slm")
    samples = [draw_sample(index) for index in job.indices]
    prompts = [render_prompt(tokenizer, sample.query) for sample in samples]
    responses, params, answerer = _decode(job, prompts)
    table = answer_table(tokenizer, samples, prompts, responses, answerer)
    run = Run(
        run_id=job.name,
        suite=SUITE,
        method=job.method,
        model_params_b=params,
        seed=job.seed,
        threshold=job.threshold,
        target_llm_usage=job.target,
        commit=job.commit,
        command=COMMAND,
    )
    save_records(RunRecords(run, table), job.out)
    num_correct = sum(table["correct"].to_pylist())
    usage = sum(sum(r.from_llm) for r in responses) / sum(len(r.token_ids) for r in responses)
    return f"{job.name}: {num_correct} of {len(samples)} right, LLM usage {usage:.3f}"


def _job(
    evidence: Evidence,
    method: str,
    *,
    seed: int | None = None,
    threshold: float | None = None,
    target: float | None = None,
) -> DecodeJob:
    return DecodeJob(
        method=method,
        indices=evidence.held_out,
        out=evidence.runs,
        weights=evidence.weights,
        max_new_tokens=evidence.scale.max_new_tokens,
        commit=evidence.provenance.commit,
        seed=seed,
        threshold=threshold,
        target=target,
        router=evidence.router(method, seed) if seed is not None and method in ROUTER_CONFIGS else None,
    )


def _decode(
    job: DecodeJob, prompts: Sequence[Sequence[int]]
) -> tuple[list[RoutedResponse], dict[str, float], Answerer]:
    """Responses, sizes of the models that took part in billions, and who answered."""
    limit = job.max_new_tokens
    for answerer in _ALONE:
        if job.method == answerer:
            folder = job.weights / answerer
            responses = decode_alone(folder, prompts, max_new_tokens=limit, from_llm=answerer == "llm")
            return responses, {answerer: count_stored_parameters(folder) / 1e9}, answerer
    slm, llm = job.weights / "slm", job.weights / "llm"
    params = {"slm": count_stored_parameters(slm) / 1e9, "llm": count_stored_parameters(llm) / 1e9}
    if job.method == "oracle":
        models = load_model(slm), load_model(llm)
        responses = decode_oracle(*models, load_tokenizer(slm), SuiteVerifier(), prompts, max_new_tokens=limit)
        return responses, params | {"router": 0.0}, "routed"
    router = None
    if job.router is not None:
        router = RouterScorer(load_checkpoint(job.router).router, load_slm_embedding(slm))
    responses = decode_routed(slm, llm, _rules(job), prompts, router=router, max_new_tokens=limit)
    return responses, params | {"router": router.router.num_parameters / 1e9 if router else 0.0}, "routed"


def _rules(job: DecodeJob) -> list[ChosenRule]:
    """The rule of every question."""
    rule = RULES[job.method] if job.router is None else RouterRule()
    if job.threshold is not None:
        return [ChosenRule.of(rule, {"threshold": job.threshold})] * len(job.indices)
    if job.target is None or job.seed is None:
        raise ValueError(f"{job.name}: a routed run needs a threshold, or a target and a seed")
    # Every question has draws of its own.
    seeds = range(job.seed << 20, (job.seed << 20) + len(job.indices))
    return [ChosenRule.of(rule, {"rate": job.target, "seed": seed}) for seed in seeds]
