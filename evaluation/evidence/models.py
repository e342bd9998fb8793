"""Trainings of the evidence: the mid-size model, and routers of every config and seed."""

from __future__ import annotations

import logging
import shutil

from rich.console import Console

from evaluation.evidence.plan import ROUTER_CONFIGS, Evidence
from evaluation.reference.pair import load_tokenizer
from evaluation.reference.training.token_store import TokenStore
from evaluation.reference.training.train_lm import TrainConfig, Trainer
from router_service.training.bar import TrainingBar
from router_service.training.build import build_checkpoint
from router_service.training.recipe import load_router_config

logger = logging.getLogger(__name__)


def train_mid(evidence: Evidence) -> None:
    """Trains the mid-size model as the pair's models were trained, and puts it beside them.

    The pair's own tokenizer is taken, so that all three read and write the same tokens.
    """
    folder = evidence.build / "mid"
    tokens = folder / "tokens.npz"
    tokenizer = load_tokenizer(evidence.slm)
    if not tokens.exists():
        folder.mkdir(parents=True, exist_ok=True)
        aside = folder / "tokens.partial.npz"
        TokenStore.tokenize(tokenizer, evidence.scale.mid_samples).save(aside)
        aside.replace(tokens)
    config = TrainConfig("mid", evidence.scale.mid_steps, evidence.scale.mid_minutes)
    Trainer(config, tokenizer, folder / "mid").run(TokenStore.load(tokens))
    aside_model = evidence.weights / "mid.partial"
    shutil.copytree(folder / "mid", aside_model, ignore=shutil.ignore_patterns("checkpoint*"), dirs_exist_ok=True)
    aside_model.replace(evidence.mid)


def train_router(evidence: Evidence, method: str, seed: int) -> None:
    """Trains and calibrates one router."""
    recipe = load_router_config(ROUTER_CONFIGS[method])
    with TrainingBar(recipe, Console(stderr=True)) as bar:
        description = build_checkpoint(
            recipe,
            evidence.dataset("train"),
            evidence.dataset("validation"),
            evidence.slm,
            evidence.llm,
            evidence.router(method, seed),
            seed,
            show_steps=bar.steps,
            on_epoch=bar.end_epoch,
        )
    logger.info("router %s, seed %d: %s", ROUTER_CONFIGS[method], seed, description.metrics)
