"""Rebuild the reference pair from nothing: `python -m evaluation.reference.build`.

Steps, in order:

  tokenizer  train the shared BPE tokenizer on the suite
  tokens     tokenize the training range once
  llm        train the large model   (the long step: about an hour and a half of one core)
  slm        train the small model   (minutes)
  label      LLM responses, SLM prefill, continuations and labels, for training and validation queries
  router     train the router, calibrate its threshold, write its checkpoint

A step whose output exists is skipped, and a training that was cut short goes on from its checkpoint, so the same
command starts, resumes and finishes the build. Delete a step's output, or name it with --only, to run it again. The
finished pair lies in OUT/weights; copy it over evaluation/reference/weights to ship it, and measure it with
`python -m evaluation.reference.evaluate`.
"""

import argparse
import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.logging import RichHandler
from transformers import PreTrainedTokenizerFast

from evaluation.reference.corpus.queries import REFERENCE_SOURCE
from evaluation.reference.corpus.samples import MAX_NEW_TOKENS, NUM_TRAIN
from evaluation.reference.pair import load_tokenizer
from evaluation.reference.training.architecture import Role
from evaluation.reference.training.label_step import label_suite, make_job
from evaluation.reference.training.token_store import TokenStore
from evaluation.reference.training.tokenizer import train_tokenizer
from evaluation.reference.training.train_lm import TrainConfig, Trainer
from labeler_jobs.plan import LabelSettings, QuerySource
from labeler_jobs.progress import LabelProgress
from labeler_jobs.statistics import STATISTICS_FILE
from router_service.training.bar import TrainingBar
from router_service.training.build import build_checkpoint
from router_service.training.recipe import load_router_config

logger = logging.getLogger(__name__)

NUM_SHARDS = 4
MAX_CONTINUATION_LEN = 48
"""More than any sentence of the suite has."""


@dataclass(frozen=True)
class Scale:
    """How much of everything a build does.

    Attributes:
        num_samples: Training samples that are tokenized.
        llm_steps: Optimizer steps of the LLM.
        slm_steps: Optimizer steps of the SLM.
        batch_size: Conversations in a step of either.
        train_queries: Queries that the router learns from.
        validation_queries: Queries that its threshold is chosen on.
        router_epochs: Limit on the router's epochs; None leaves it to the recipe.
        max_new_tokens: Limit of a response that is labelled.
        keep_unfinished: Whether responses that hit the limit are labelled too.
    """

    num_samples: int = NUM_TRAIN
    llm_steps: int = 3000
    slm_steps: int = 2000
    batch_size: int = 24
    train_queries: int = 1500
    validation_queries: int = 250
    router_epochs: int | None = None
    max_new_tokens: int = MAX_NEW_TOKENS
    keep_unfinished: bool = False


QUICK = Scale(
    num_samples=300,
    llm_steps=30,
    slm_steps=10,
    batch_size=6,
    train_queries=6,
    validation_queries=6,
    router_epochs=1,
    max_new_tokens=16,
    keep_unfinished=True,
)
"""A smoke run: every step once, on almost nothing; what comes out has the right shape and no skill."""


class Build:
    """The steps of a build and where each keeps its output."""

    def __init__(self, out: Path, scale: Scale) -> None:
        """Prepares a build.

        Args:
            out: Folder of all outputs; made when missing.
            scale: How much to do.
        """
        self.out = out
        self.scale = scale
        self.weights = out / "weights"
        self.steps: dict[str, tuple[Path, Callable[[], None]]] = {
            "tokenizer": (out / "tokenizer", self._train_tokenizer),
            "tokens": (out / "tokens.npz", self._tokenize),
            "llm": (self.weights / "llm", lambda: self._train_model("llm", scale.llm_steps)),
            "slm": (self.weights / "slm", lambda: self._train_model("slm", scale.slm_steps)),
            "label": (self._labels("validation") / STATISTICS_FILE, self._label),
            "router": (self.weights / "router", self._build_router),
        }

    def run(self, only: str | None = None) -> None:
        """Runs all missing steps, or one step whether missing or not.

        Args:
            only: Name of the step.
        """
        self.weights.mkdir(parents=True, exist_ok=True)
        for name, (output, step) in self.steps.items():
            if only is not None and name != only:
                continue
            if only is None and output.exists():
                logger.info("%s: %s exists, skipped", name, output)
                continue
            logger.info("%s: running", name)
            step()

    @property
    def _tokenizer(self) -> PreTrainedTokenizerFast:
        return load_tokenizer(self.out / "tokenizer")

    def _train_tokenizer(self) -> None:
        train_tokenizer().save_pretrained(self.out / "tokenizer")

    def _tokenize(self) -> None:
        TokenStore.tokenize(self._tokenizer, self.scale.num_samples).save(self.out / "tokens.npz")

    def _train_model(self, role: Role, num_steps: int) -> None:
        folder = self.out / role
        Trainer(TrainConfig(role, num_steps, batch_size=self.scale.batch_size), self._tokenizer, folder).run(
            TokenStore.load(self.out / "tokens.npz")
        )
        shutil.copytree(folder, self.weights / role, ignore=shutil.ignore_patterns("checkpoint*"), dirs_exist_ok=True)

    def _labels(self, split: str) -> Path:
        return self.out / "labels" / split

    def _label(self) -> None:
        settings = LabelSettings(
            max_new_tokens=self.scale.max_new_tokens,
            max_continuation_len=MAX_CONTINUATION_LEN,
            keep_unfinished=self.scale.keep_unfinished,
            num_threads=torch.get_num_threads(),
        )
        for split, limit in (("train", self.scale.train_queries), ("validation", self.scale.validation_queries)):
            job = make_job(self.weights, QuerySource(REFERENCE_SOURCE, "", split, limit), NUM_SHARDS, settings)
            with LabelProgress(Console(stderr=True)) as progress:
                outcome = label_suite(job, self._labels(split), progress)
            logger.info("%s labels: %s", split, outcome.statistics.summary)

    def _build_router(self) -> None:
        recipe = load_router_config("reference")
        if self.scale.router_epochs is not None:
            training = recipe.training.model_copy(update={"max_epochs": self.scale.router_epochs})
            recipe = recipe.model_copy(update={"training": training})
        train, validation = (self._labels(split) / "dataset" for split in ("train", "validation"))
        with TrainingBar(recipe, Console(stderr=True)) as bar:
            description = build_checkpoint(
                recipe, train, validation, self.weights / "slm", self.weights / "llm", self.weights / "router",
                show_steps=bar.steps, on_epoch=bar.end_epoch,
            )  # fmt: skip
        logger.info("router: %s", description.metrics)


def main(argv: list[str] | None = None) -> None:
    """Builds from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("build/reference-pair"), help="folder of all outputs")
    parser.add_argument("--only", choices=list(Build(Path(), QUICK).steps), help="run this step alone, even if done")
    parser.add_argument("--quick", action="store_true", help="a tiny smoke run of every step (about a minute)")
    parser.add_argument("--threads", type=int, help="CPU threads; default: torch's own choice")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[RichHandler(show_path=False)])
    if args.threads:
        torch.set_num_threads(args.threads)
    Build(args.out, QUICK if args.quick else Scale()).run(args.only)


if __name__ == "__main__":
    main()
