"""What `trivium train` does: finds the pair's files, builds the checkpoint and shows how it goes.

Owns what is shown; the work is `router_service.training.build`'s.
"""

from __future__ import annotations

from rich.table import Table

from router_service.checkpoint_files import DESCRIPTION_FILE
from router_service.description import RouterDescription
from router_service.training.bar import TrainingBar
from router_service.training.build import build_checkpoint
from router_service.training.calibrate import USEFUL_AUC, Target
from router_service.training.recipe import load_router_config
from services.cli.console import err, note, out
from services.cli.errors import CliError
from services.cli.pairs import find_pair
from services.cli.train.model_folder import large_model_folder, small_model_folder
from services.cli.train.options import TrainOptions
from services.common.pair import load_pair


def run_train(options: TrainOptions) -> None:
    """Trains a router and prints what it came to.

    Raises:
        CliError: Something can't be used; the message names it.
    """
    if (options.out / DESCRIPTION_FILE).exists() and not options.overwrite:
        raise CliError(f"{options.out}: holds a checkpoint; --overwrite replaces it")
    try:
        recipe = load_router_config(options.config)
        pair = load_pair(find_pair(options.pair))
        with TrainingBar(recipe, err) as bar:
            description = build_checkpoint(
                recipe, options.data, options.validation, small_model_folder(pair.slm), large_model_folder(pair.llm),
                options.out, options.seed, Target(*options.target),
                device=options.device, num_threads=options.threads, with_embedding=options.with_embedding,
                allow_other_slm=options.allow_other_slm,
                show_steps=bar.steps, on_epoch=bar.end_epoch,
            )  # fmt: skip
    # Everything that can be wrong with files, recipe or data is a ValueError of its own kind.
    except (ValueError, OSError) as error:
        raise CliError(str(error)) from error
    out.print(_summary(description))
    warn_of_auc(description)
    note(f"written to {options.out}; curves and sweep are in {options.out / 'training'}")


def warn_of_auc(description: RouterDescription) -> None:
    """Says so where a router hardly tells divergent tokens from others."""
    auc = description.metrics["validation_auc"]
    if auc < USEFUL_AUC:
        note(
            f"warning: an AUC of {auc:.3f} on validation is little better than a coin's 0.5: are there enough "
            "labels, and does the verifier judge well?",
            "yellow",
        )


def _summary(description: RouterDescription) -> Table:
    metrics = description.metrics
    table = Table("router of", "objective", "AUC", "LLM usage %", "recall %", "precision %", "average parameters (B)")
    table.add_row(
        description.slm.model_id,
        description.objective,
        f"{metrics['validation_auc']:.4f}",
        *(f"{100 * metrics[f'validation_{name}']:.1f}" for name in ("llm_usage_rate", "recall", "precision")),
        f"{metrics['validation_avg_activated_params_b']:.4g}",
    )
    return table
