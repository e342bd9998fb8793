"""Query-level routing on the suite: training on its outcomes, curves on held-out queries, runs at R2R's cost.

The curves follow from both models' answers, so nothing is decoded here. Source: arXiv:2505.21600 Table 2, Figure 5.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from evaluation.evidence.plan import Evidence, run_name
from evaluation.metrics import area_under_roc
from evaluation.query_routing.curve import sweep_shares
from evaluation.query_routing.encoder import EncoderRouter
from evaluation.query_routing.factorization import FactorizationRouter
from evaluation.query_routing.llm_classifier import LlmClassifierRouter
from evaluation.query_routing.outcomes import Outcomes
from evaluation.query_routing.queries import QueryRouter as Learner
from evaluation.query_routing.queries import QuerySet, embed_queries
from evaluation.query_routing.similarity import SimilarityRouter
from evaluation.records.results_files import QueryRouter, QueryRouting
from evaluation.records.run_records import Run, RunRecords, load_records, save_records
from evaluation.reference.pair import load_model, load_tokenizer
from evaluation.reference.training.tokenizer import VOCAB_SIZE
from labeler_jobs.models.huggingface import render_prompt


def route_queries(evidence: Evidence) -> None:
    """Writes `query_routing.json`, and one run for each router, seed and target."""
    train = Outcomes.join(*(load_records(evidence.outcomes / f"train-{name}.parquet") for name in ("slm", "llm")))
    slm, llm = (load_records(evidence.runs / f"{name}.parquet") for name in ("slm", "llm"))
    held_out = Outcomes.join(slm, llm)
    train_queries, held_out_queries = (_embed(evidence, outcomes) for outcomes in (train, held_out))
    needs_llm = torch.from_numpy(train.needs_llm.astype(np.float32))
    results = []
    for learner in _learners():
        for seed in evidence.scale.seeds:
            learner.fit(train_queries, needs_llm, seed)
            scores = learner.scores(held_out_queries)
            auc = area_under_roc(scores, torch.from_numpy(~held_out.slm_correct))
            curve = sweep_shares(held_out, scores.numpy())
            results.append(QueryRouter(method=learner.name, seed=seed, auc=auc, curve=curve))
            for target in evidence.scale.targets:
                _save_run(evidence, results[-1], scores.numpy(), held_out, (slm, llm), target)
    QueryRouting(
        provenance=evidence.provenance,
        num_train_queries=len(train_queries),
        num_held_out_queries=len(held_out_queries),
        routers=results,
    ).save(evidence.results)


def choose_at_cost(outcomes: Outcomes, scores: NDArray[np.float32], avg_params_b: float) -> NDArray[np.bool_]:
    """Chooses the queries for the LLM that use up a budget.

    Args:
        outcomes: Of the queries.
        scores: f32 [queries].
        avg_params_b: Average activated parameters of an emitted token to come up to.

    Returns:
        bool [queries]: the queries with the largest scores, as many as the budget allows, counted by output tokens.
    """
    ranking = np.argsort(-scores, kind="stable")
    llm_tokens = np.cumsum(outcomes.llm_tokens[ranking])
    slm_tokens = outcomes.slm_tokens.sum() - np.cumsum(outcomes.slm_tokens[ranking])
    spent_b = outcomes.avg_params_b(slm_tokens, llm_tokens)
    affordable = int(np.searchsorted(spent_b, avg_params_b, side="right"))
    chosen = np.zeros(len(scores), dtype=bool)
    chosen[ranking[:affordable]] = True
    return chosen


def _learners() -> list[Learner]:
    return [SimilarityRouter(), FactorizationRouter(), EncoderRouter(VOCAB_SIZE), LlmClassifierRouter()]


def _embed(evidence: Evidence, outcomes: Outcomes) -> QuerySet:
    tokenizer = load_tokenizer(evidence.slm)
    queries = evidence.questions(tuple(map(int, outcomes.question_ids)))
    return embed_queries(load_model(evidence.llm), [render_prompt(tokenizer, query) for query in queries])


def _save_run(
    evidence: Evidence,
    router: QueryRouter,
    scores: NDArray[np.float32],
    outcomes: Outcomes,
    runs: Sequence[RunRecords],
    target: float,
) -> None:
    """The answers that a query-level router gives at the cost that R2R has at this target."""
    r2r = [load_records(evidence.runs / f"{run_name('r2r', target, seed)}.parquet") for seed in evidence.scale.seeds]
    to_llm = choose_at_cost(outcomes, scores, float(np.mean([average_params_b(records) for records in r2r])))
    slm, llm = runs
    rows = [theirs if chosen else mine for mine, theirs, chosen in zip(
        slm.table.to_pylist(), llm.table.to_pylist(), to_llm.tolist(), strict=True
    )]  # fmt: skip
    run = Run(
        run_id=run_name(router.method, target, router.seed),
        suite=slm.run.suite,
        method=router.method,
        model_params_b=slm.run.model_params_b | llm.run.model_params_b,
        seed=router.seed,
        target_llm_usage=target,
        commit=evidence.provenance.commit,
        command=evidence.provenance.command,
    )
    save_records(RunRecords(run, pa.Table.from_pylist(rows, slm.table.schema)), evidence.runs)


def average_params_b(records: RunRecords) -> float:
    """Average activated parameters of an emitted token of a routed run, in billions."""
    num_tokens: int = sum(records.table["num_tokens"].to_pylist())
    num_llm_tokens = sum(map(len, records.table["llm_positions"].to_pylist()))
    return records.run.sizes.avg_activated_params_b(num_llm_tokens / num_tokens)
