"""How much evidence is gathered, and where each step keeps what it makes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from evaluation.decoding.aleatoric import AleatoricRule
from evaluation.records.commit import code_commit
from evaluation.records.results_files import RESULTS_DIR, RUNS_FOLDER, Provenance
from evaluation.reference.corpus.samples import MAX_NEW_TOKENS, NUM_TRAIN, draw_sample, unseen_samples
from evaluation.reference.pair import WEIGHTS_DIR
from services.rules.rule import Rule
from services.rules.shipped import EntropyRule, RandomRule

COMMAND = "make evidence"
ROUTER_CONFIGS = {
    "r2r": "reference",
    "different": "reference-different",
    "hs_tok": "reference-hs-tok",
    "hs": "reference-hs",
}
"""Config file of each method that has a trained router."""
RULES: dict[str, Rule] = {rule.name: rule for rule in (EntropyRule(), AleatoricRule(), RandomRule())}
"""Methods that need no training."""
LABEL_SETS = ("train", "validation")


@dataclass(frozen=True)
class Scale:
    """How much is done.

    Attributes:
        train_queries: Queries that routers learn from.
        validation_queries: Queries that thresholds are chosen on.
        held_out_queries: Queries that everything is measured on.
        outcome_queries: Training queries whose outcomes query-level routers learn from.
        seeds: Seeds of everything that is trained.
        targets: LLM usage rates that R2R is measured at.
        ablation_targets: Those of routers of other objective or inputs.
        rule_targets: Those of rules.
        mid_samples: Training samples of the mid-size model.
        mid_steps: Its optimizer steps.
        mid_minutes: Wall-clock bound of its training.
        speed_questions: Questions of a repetition.
        speed_repetitions: Repetitions.
        cost_ratio: What the inflated LLM's step costs, in steps of the SLM.
        max_new_tokens: Limit of a response.
        label_shards: Shards of each labelled set.
        keep_unfinished: Whether responses that hit the limit are labelled too.
    """

    train_queries: int = 3000
    validation_queries: int = 500
    held_out_queries: int = 1002
    outcome_queries: int = 1500
    seeds: tuple[int, ...] = (1, 2, 3)
    targets: tuple[float, ...] = (0.03, 0.05, 0.10, 0.20)
    ablation_targets: tuple[float, ...] = (0.05, 0.10)
    rule_targets: tuple[float, ...] = (0.05, 0.10, 0.20)
    mid_samples: int = NUM_TRAIN
    mid_steps: int = 6000
    mid_minutes: float = 45.0
    speed_questions: int = 6
    speed_repetitions: int = 5
    cost_ratio: float = 21.0
    max_new_tokens: int = MAX_NEW_TOKENS
    label_shards: int = 16
    keep_unfinished: bool = False


@dataclass(frozen=True)
class Evidence:
    """One gathering of evidence.

    Attributes:
        build: Folder of what is large or only needed on the way.
        results: Folder of what is committed.
        weights: Folder of the pair: slm, llm and mid.
        scale: How much is done.
    """

    build: Path = Path("build/evidence")
    results: Path = RESULTS_DIR
    weights: Path = WEIGHTS_DIR
    scale: Scale = Scale()

    @property
    def slm(self) -> Path:
        """The SLM's folder."""
        return self.weights / "slm"

    @property
    def llm(self) -> Path:
        """The LLM's folder."""
        return self.weights / "llm"

    @property
    def mid(self) -> Path:
        """The mid-size model's folder."""
        return self.weights / "mid"

    @property
    def runs(self) -> Path:
        """The folder of runs on held-out queries."""
        return self.results / RUNS_FOLDER

    @property
    def outcomes(self) -> Path:
        """The folder of runs on training queries."""
        return self.build / "outcomes"

    def labels(self, name: str) -> Path:
        """Output folder of one labelled set, "train" or "validation"."""
        return self.build / "labels" / name

    def dataset(self, name: str) -> Path:
        """Its labelled dataset."""
        return self.labels(name) / "dataset"

    def router(self, method: str, seed: int) -> Path:
        """A router's checkpoint folder."""
        return self.build / "routers" / f"{ROUTER_CONFIGS[method]}-seed{seed}"

    @cached_property
    def held_out(self) -> tuple[int, ...]:
        """Indices of the held-out queries in the suite; drawing them takes long enough to be done once."""
        path = self.build / f"held_out-{self.scale.held_out_queries}.json"
        if not path.exists():
            samples = unseen_samples("held_out", self.scale.held_out_queries)
            path.parent.mkdir(parents=True, exist_ok=True)
            aside = path.with_suffix(".json.tmp")
            aside.write_text(json.dumps([sample.index for sample in samples]), encoding="utf-8")
            aside.replace(path)
        return tuple(json.loads(path.read_text(encoding="utf-8")))

    @cached_property
    def provenance(self) -> Provenance:
        """What every file says about its making."""
        return Provenance(command=COMMAND, commit=code_commit(), seeds=list(self.scale.seeds))

    def questions(self, indices: tuple[int, ...]) -> list[str]:
        """The user's messages of queries of the suite."""
        return [draw_sample(index).query for index in indices]


def run_name(method: str, target: float | None = None, seed: int | None = None) -> str:
    """Name of a run, such as "r2r-u05-seed1"."""
    parts = [method]
    if target is not None:
        parts.append(f"u{round(100 * target):02d}")
    if seed is not None:
        parts.append(f"seed{seed}")
    return "-".join(parts)
