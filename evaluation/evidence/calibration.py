"""Thresholds of every router and rule, chosen in one way on the validation tokens.

Source: arXiv:2505.21600 A.3 (threshold selection), B.4 (sweep).
"""

from __future__ import annotations

import torch
from torch import Tensor

from evaluation.evidence.plan import ROUTER_CONFIGS, RULES, Evidence
from evaluation.records.results_files import RouterResult, Routers, RouterSweep, SweepPoint, Sweeps
from evaluation.reference.pair import count_parameters, load_model
from labeler_jobs.rule_sweep import score_rows
from router_service.checkpoint import load_checkpoint, load_slm_embedding
from router_service.training.calibrate import SWEEP_USAGE_RATES, area_under_roc, boundary, measure_threshold
from router_service.training.dataset import load_routing_data
from router_service.training.routing_data import RoutingData
from router_service.training.train import predict_logits
from services.common.model_sizes import ModelSizes

RULE_DEFAULT_USAGE = 0.10
"""LLM usage rate of a rule's default threshold."""


def calibrate(evidence: Evidence) -> None:
    """Writes `routers.json` and `sweep.json`."""
    data = load_routing_data(evidence.dataset("validation"), "divergent")
    slm_size, llm_size = (count_parameters(load_model(folder)) for folder in (evidence.slm, evidence.llm))
    results, sweeps = [], []
    for method in (*ROUTER_CONFIGS, *RULES):
        for seed in evidence.scale.seeds if method in ROUTER_CONFIGS else (None,):
            scores, num_params, threshold = _score(evidence, method, seed, data)
            sizes = ModelSizes(slm_size, num_params, llm_size)
            result, sweep = _describe(evidence, method, seed, scores, data.divergent, sizes, threshold)
            results.append(result)
            sweeps.append(sweep)
    Routers(provenance=evidence.provenance, routers=results).save(evidence.results)
    Sweeps(provenance=evidence.provenance, sweeps=sweeps).save(evidence.results)


def threshold_at(scores: Tensor, llm_usage_rate: float) -> float:
    """The threshold that routes a share of rows.

    Args:
        scores: f32 [rows].
        llm_usage_rate: Share, above 0 and below 1.
    """
    return float(boundary(torch.sort(scores.double(), descending=True).values, llm_usage_rate))


def _score(evidence: Evidence, method: str, seed: int | None, data: RoutingData) -> tuple[Tensor, int, float | None]:
    """Scores of all rows, the number of parameters behind them, and the default threshold if there is one."""
    if seed is not None:
        checkpoint = load_checkpoint(evidence.router(method, seed))
        logits = predict_logits(checkpoint.router, data, load_slm_embedding(evidence.slm))
        return torch.sigmoid(logits), checkpoint.router.num_parameters, checkpoint.description.threshold
    if method == "random":
        return torch.rand(len(data), generator=torch.Generator().manual_seed(0)), 0, None
    return torch.from_numpy(score_rows(RULES[method], data)), 0, None


def _describe(
    evidence: Evidence,
    method: str,
    seed: int | None,
    scores: Tensor,
    divergent: Tensor,
    sizes: ModelSizes,
    threshold: float | None,
) -> tuple[RouterResult, RouterSweep]:
    targets = sorted({*evidence.scale.targets, *evidence.scale.ablation_targets, *evidence.scale.rule_targets})
    default = threshold_at(scores, RULE_DEFAULT_USAGE) if threshold is None else threshold
    at_default = measure_threshold(scores, divergent, default, sizes)
    config = ROUTER_CONFIGS.get(method)
    result = RouterResult(
        method=method,
        config=config,
        seed=seed,
        num_params=sizes.router,
        auc=area_under_roc(scores, divergent),
        threshold=default,
        llm_usage_rate=at_default.llm_usage_rate,
        recall=at_default.recall,
        precision=at_default.precision,
        thresholds={f"{target:.2f}": threshold_at(scores, target) for target in targets},
    )
    thresholds = {threshold_at(scores, rate): None for rate in SWEEP_USAGE_RATES}
    measured = [measure_threshold(scores, divergent, value, sizes) for value in sorted(thresholds, reverse=True)]
    rows = [SweepPoint(**{name: getattr(row, name) for name in SweepPoint.model_fields}) for row in measured]
    return result, RouterSweep(method=method, config=config, seed=seed, rows=rows)
