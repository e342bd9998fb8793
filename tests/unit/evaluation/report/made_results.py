"""Made results in the real files: they test what is drawn, and say nothing about any model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from evaluation.records.results_files import (
    RUNS_FOLDER,
    DomainLabels,
    FrequencyBand,
    Histogram,
    Labeling,
    Provenance,
    QueryRouter,
    QueryRouting,
    QueryRoutingPoint,
    RouterResult,
    Routers,
    RouterSweep,
    Speed,
    SpeedRow,
    StageCost,
    SweepPoint,
    Sweeps,
    TokenAnalysis,
)
from evaluation.records.run_records import RECORDS_SCHEMA, Run, RunRecords, save_records

SIZES = {"slm": 0.00004, "mid": 0.0004, "router": 0.00006, "llm": 0.0031}
DOMAINS = ("math", "code", "qa")
TARGETS = (0.02, 0.05, 0.1, 0.2)
SEEDS = (0, 1, 2)
PROVENANCE = Provenance(command="make evidence", commit="0123456789abcdef", seeds=list(SEEDS))
# Distance of a method from random tokens, in [0, 1]: how much of what is to be found it finds.
_SKILL = {"r2r": 1.0, "different": 0.6, "hs_tok": 0.95, "hs": 0.85, "entropy": 0.55, "aleatoric": 0.5, "random": 0.05}


def write_made_results(folder: Path, num_questions: int = 30) -> None:
    """Fills a folder with every file that a report is drawn from."""
    for name, accuracy in (("slm", 0.38), ("mid", 0.7), ("llm", 0.99)):
        save_made_run(folder, name, num_questions, accuracy, model=name)
    save_made_run(folder, "oracle", num_questions, 0.985, usage=0.025)
    for method, skill in _SKILL.items():
        for target in TARGETS:
            seeds = (None,) if method in ("entropy", "aleatoric") else SEEDS
            for seed in seeds:
                accuracy = 0.38 + 0.61 * (1 - np.exp(-skill * target * 40))
                save_made_run(folder, method, num_questions, accuracy, usage=target, target=target, seed=seed)
    for method in ("qr_sw", "qr_mf", "qr_encoder", "qr_llm"):
        for seed in SEEDS:
            for share in (0.05, 0.13, 0.4):
                save_made_query_level(folder, method, num_questions, share, seed)
    labeling().save(folder)
    token_analysis().save(folder)
    routers().save(folder)
    sweeps().save(folder)
    query_routing().save(folder)
    speed().save(folder)


def save_made_run(
    folder: Path,
    method: str,
    num_questions: int,
    accuracy: float,
    *,
    model: str = "routed",
    usage: float = 0.0,
    target: float | None = None,
    seed: int | None = None,
) -> Path:
    """Saves a run whose answers and LLM positions are drawn at the given rates."""
    name = f"{method}-{target or 'alone'}-{seed}"
    # Responses are alike under all methods, so that differences come from accuracy alone.
    lengths = np.random.default_rng(0).integers(60, 140, num_questions)
    rng = np.random.default_rng([sum(map(ord, name)), 1])
    rows = [
        made_row(at, int(lengths[at]), rng.random() < accuracy, model=model, usage=usage, rng=rng)
        for at in range(num_questions)
    ]
    run = Run(name, "reference", method, SIZES, seed, 0.5, target, PROVENANCE.commit, PROVENANCE.command)
    return save_records(RunRecords(run, pa.Table.from_pylist(rows, RECORDS_SCHEMA)), folder / RUNS_FOLDER)


def save_made_query_level(folder: Path, method: str, num_questions: int, share: float, seed: int) -> Path:
    """Saves a run in which a share of the questions goes to the LLM."""
    rng = np.random.default_rng([sum(map(ord, method)), seed])
    rows = []
    for at in range(num_questions):
        model = "llm" if rng.random() < share else "slm"
        right = rng.random() < (0.99 if model == "llm" else 0.4)
        rows.append(made_row(at, 100, right, model=model, rng=rng))
    sizes = {"slm": SIZES["slm"], "llm": SIZES["llm"]}
    run = Run(f"{method}-{share}-{seed}", "reference", method, sizes, seed, share, share, "", PROVENANCE.command)
    return save_records(RunRecords(run, pa.Table.from_pylist(rows, RECORDS_SCHEMA)), folder / RUNS_FOLDER)


def made_row(
    at: int, num_tokens: int, correct: bool, *, model: str, rng: np.random.Generator, usage: float = 0.0
) -> dict[str, object]:
    """A question's row; four fifths of the response are thinking, in two thoughts."""
    think_len = num_tokens * 4 // 5
    rate = np.where(np.arange(num_tokens) < think_len, usage * 1.2, usage * 0.2)
    rate[: num_tokens // 10] *= 1.8
    positions = np.flatnonzero((rng.random(num_tokens) < rate) & (model == "routed"))
    return {
        "question_id": f"q{at:04d}",
        "domain": DOMAINS[at % 3],
        "correct": bool(correct),
        "finished": True,
        "num_prompt_tokens": 40,
        "num_tokens": num_tokens,
        "llm_positions": positions.tolist(),
        "think_len": think_len,
        "thought_starts": [0, think_len // 2],
        "model": model,
        "latency_s": None,
    }


def labeling() -> Labeling:
    """Labels of two sets."""
    rows = [
        DomainLabels(domain=d, num_queries=100, num_tokens=10_000, num_different=600, num_divergent=200)
        for d in DOMAINS
    ]
    total = DomainLabels(domain="all", num_queries=300, num_tokens=30_000, num_different=1800, num_divergent=600)
    cost = [
        StageCost(stage="responses", seconds=60.0, num_tokens=30_000),
        StageCost(stage="prefill", seconds=20.0, num_tokens=42_000),
        StageCost(stage="continuations", seconds=100.0, num_tokens=25_000),
        StageCost(stage="verdicts", seconds=15.0, num_tokens=1_800),
        StageCost(stage="dataset", seconds=5.0, num_tokens=30_000),
    ]
    return Labeling(provenance=PROVENANCE, sets={"train": [*rows, total]}, cost={"train": cost})


def token_analysis() -> TokenAnalysis:
    """Scores that rise from identical over neutral to divergent tokens."""
    rng = np.random.default_rng(0)
    draws = {"identical": rng.exponential(0.12, 28_000), "neutral": rng.normal(1.0, 0.4, 1_200)}
    draws["divergent"] = rng.normal(1.3, 0.6, 600)
    edges = np.linspace(0, 3, 31)
    counts = {label: np.histogram(values, edges)[0].tolist() for label, values in draws.items()}
    mean = {label: float(values.mean()) for label, values in draws.items()}
    entropy = Histogram(bin_edges=edges.tolist(), counts=counts, mean=mean, auc=0.95)
    bands = [
        FrequencyBand(
            min_count=4**at,
            max_count=4 ** (at + 1) - 1,
            num_token_ids=60 - 8 * at,
            num_tokens=400 * (at + 1),
            num_different=100 - 10 * at,
            num_divergent=60 - 9 * at,
        )
        for at in range(6)
    ]
    return TokenAnalysis(provenance=PROVENANCE, entropy=entropy, aleatoric=entropy, frequency=bands)


def routers() -> Routers:
    """Three seeds of four routers, and three rules."""
    rows = []
    for method, skill in _SKILL.items():
        trained = method not in ("entropy", "aleatoric", "random")
        rows += [
            RouterResult(
                method=method,
                config=f"{method}.yaml" if trained else None,
                seed=seed if trained else None,
                num_params=58_601 if trained else 0,
                auc=0.5 + 0.49 * skill + 0.001 * seed,
                threshold=0.5,
                llm_usage_rate=0.09,
                recall=min(1.0, skill),
                precision=0.2,
                thresholds={str(target): 0.9 - target for target in TARGETS},
            )
            for seed in (SEEDS if trained else (0,))
        ]
    return Routers(provenance=PROVENANCE, routers=rows)


def sweeps() -> Sweeps:
    """Sweeps whose recall rises with usage."""
    made = []
    for method, skill in _SKILL.items():
        for seed in SEEDS if method in ("r2r", "different", "hs_tok", "hs") else (None,):
            rows = [
                _sweep_point(usage, skill, seed or 0) for usage in (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1)
            ]
            made.append(RouterSweep(method=method, config=None, seed=seed, rows=rows))
    return Sweeps(provenance=PROVENANCE, sweeps=made)


def _sweep_point(usage: float, skill: float, seed: int) -> SweepPoint:
    recall = usage if usage == 1 else min(1.0, usage + (1 - usage) * (1 - np.exp(-skill * usage * (35 + 3 * seed))))
    return SweepPoint(
        threshold=float(1 - usage) ** (3 + seed),
        llm_usage_rate=usage,
        recall=float(recall),
        precision=0.02 * float(recall) / usage,
        avg_activated_params_b=SIZES["slm"] + SIZES["router"] + usage * SIZES["llm"],
    )


def query_routing() -> QueryRouting:
    """Curves a little above the straight line from SLM to LLM."""
    made = []
    for at, method in enumerate(("qr_sw", "qr_mf", "qr_encoder", "qr_llm")):
        for seed in SEEDS:
            curve = [
                QueryRoutingPoint(
                    llm_share=float(share),
                    llm_usage_rate=float(share),
                    avg_params_b=SIZES["slm"] + float(share) * (SIZES["llm"] - SIZES["slm"]),
                    accuracy=0.38 + 0.61 * float(share) ** (0.95 - 0.06 * at - 0.005 * seed),
                    mean_tokens=100.0,
                )
                for share in np.linspace(0, 1, 21)
            ]
            made.append(QueryRouter(method=method, seed=seed, auc=0.6, curve=curve))
    return QueryRouting(provenance=PROVENANCE, num_train_queries=500, num_held_out_queries=1000, routers=made)


def speed() -> Speed:
    """Three repetitions of every method, with the LLM as it is and inflated."""
    tokens = [1000, 1000, 1000]
    rows = [
        SpeedRow(
            method="slm",
            llm=None,
            avg_params_b=SIZES["slm"],
            num_tokens=tokens,
            tokens_per_s=[500.0, 510.0, 490.0],
            latency_s=[0.2, 0.19, 0.21],
        ),
    ]
    for llm, factor in (("reference", 1.0), ("inflated", 0.4)):
        for method, rate in (("llm", 100.0), ("r2r", 250.0), ("speculative", 160.0)):
            speeds = [rate * factor, rate * factor * 1.1, rate * factor * 0.9]
            rows.append(
                SpeedRow(
                    method=method,
                    llm=llm,
                    avg_params_b=None if method == "speculative" else 0.0004,
                    num_tokens=tokens,
                    tokens_per_s=speeds,
                    latency_s=[100 / value for value in speeds],
                    equal_to_llm=1.0 if method == "speculative" else None,
                    accepted_rate=0.7 if method == "speculative" else None,
                )
            )
    sizes = {"reference": 0.0031, "inflated": 0.02}
    return Speed(
        provenance=PROVENANCE,
        num_questions=10,
        num_threads=1,
        llm_params_b=sizes,
        cost_ratio={"reference": 3.1, "inflated": 21.0},
        rows=rows,
    )
