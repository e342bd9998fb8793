"""Labels of training and validation queries, their statistics and cost: `labeling.json`.

Source: arXiv:2505.21600 Tables 1 and 6.
"""

from __future__ import annotations

import json

from rich.console import Console

from evaluation.evidence.plan import LABEL_SETS, Evidence
from evaluation.records.results_files import DomainLabels, Labeling, StageCost
from evaluation.reference.corpus.queries import REFERENCE_SOURCE
from evaluation.reference.training.label_step import label_suite, make_job
from labeler_jobs.cost import COST_FILE
from labeler_jobs.plan import LabelSettings, QuerySource
from labeler_jobs.progress import LabelProgress
from labeler_jobs.statistics import STATISTICS_FILE


def label(evidence: Evidence, name: str) -> None:
    """Labels one set; finished shards are kept.

    Args:
        evidence: What is gathered.
        name: "train" or "validation".
    """
    scale = evidence.scale
    limit = scale.train_queries if name == "train" else scale.validation_queries
    settings = LabelSettings(max_new_tokens=scale.max_new_tokens, keep_unfinished=scale.keep_unfinished)
    source = QuerySource(REFERENCE_SOURCE, split=name, limit=limit)
    job = make_job(evidence.weights, source, scale.label_shards, settings)
    with LabelProgress(Console(stderr=True)) as progress:
        label_suite(job, evidence.labels(name), progress)


def report_labeling(evidence: Evidence) -> None:
    """Writes `labeling.json`."""
    sets, cost = {}, {}
    for name in LABEL_SETS:
        folder = evidence.labels(name)
        statistics = json.loads((folder / STATISTICS_FILE).read_text(encoding="utf-8"))
        rows = statistics["domains"] | {"all": statistics["summary"]}
        fields = set(DomainLabels.model_fields) - {"domain"}
        sets[name] = [
            DomainLabels(domain=domain, **{field: counts[field] for field in fields})
            for domain, counts in rows.items()
        ]
        stages = json.loads((folder / COST_FILE).read_text(encoding="utf-8"))
        cost[name] = [
            StageCost(stage=stage, seconds=sums["seconds"], num_tokens=int(sums["num_items"]))
            for stage, sums in stages.items()
        ]
    Labeling(provenance=evidence.provenance, sets=sets, cost=cost).save(evidence.results)
