"""From labelled datasets to a router's checkpoint: train, calibrate, describe, write.

Owns the order of these steps and what the checkpoint says about them. `OUT` becomes a checkpoint that the router
service loads; `OUT/training` holds the curves, the sweep's figure and, until training is over, its state.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from router_service.checkpoint import (
    RouterCheckpoint,
    check_slm_weights,
    count_stored_parameters,
    load_slm_embedding,
    save_checkpoint,
)
from router_service.checkpoint_files import CheckpointError
from router_service.description import ModelIdentity, RouterDescription
from router_service.model import Router
from router_service.training.calibrate import (
    DEFAULT_THRESHOLD,
    TIE_MARGIN,
    Target,
    area_under_roc,
    choose_threshold,
    fit_slope,
    measure_threshold,
    recentre,
    sweep_thresholds,
)
from router_service.training.checks import check_classes, check_disjoint, check_logits, check_target
from router_service.training.dataset import (
    DatasetError,
    LabelledPair,
    dataset_statistics,
    labelled_pair,
    load_routing_data,
)
from router_service.training.figures import write_curves, write_sweep
from router_service.training.recipe import RouterRecipe
from router_service.training.routing_data import RoutingData
from router_service.training.state import EpochRecord
from router_service.training.train import ShowSteps, predict_logits, train_router
from services.common.model_sizes import ModelSizes
from services.common.text.tokenizer import load_tokenizer, tokenizer_sha256

DEFAULT_TARGET = Target("llm_usage_rate", 0.09)
TRAINING_DIR = "training"
_STATE_FILE = "state.safetensors"


def build_checkpoint(
    recipe: RouterRecipe,
    train: Path,
    validation: Path,
    slm_dir: Path,
    llm_dir: Path,
    out: Path,
    seed: int = 1,
    target: Target = DEFAULT_TARGET,
    *,
    device: str = "",
    num_threads: int = 0,
    with_embedding: bool = False,
    allow_other_slm: bool = False,
    show_steps: ShowSteps | None = None,
    on_epoch: Callable[[EpochRecord], None] | None = None,
) -> RouterDescription:
    """Trains and calibrates a router and writes its checkpoint. A build that was cut short goes on where it was.

    Args:
        recipe: Objective, inputs, sizes and training.
        train: Dataset to learn from.
        validation: Dataset of other queries: decides when training stops, and what thresholds come to.
        slm_dir: The small model's folder; its tokenizer, its embedding and its size are read.
        llm_dir: The large model's folder; its size is read.
        out: The checkpoint's folder; one that is there is replaced at the very end.
        seed: Of weights, order and dropout.
        target: What the default threshold is chosen for.
        device: torch device to train on; empty: cuda if there is one, else cpu.
        num_threads: CPU threads of this process; 0 leaves torch's default.
        with_embedding: Store the SLM's embedding in the checkpoint; else the service reads it from the SLM.
        allow_other_slm: Take an SLM of other weights than the datasets were labelled with.
        show_steps: Shows a progress bar.
        on_epoch: Told of every epoch as it ends.

    Returns:
        What the checkpoint says about itself.

    Raises:
        DatasetError: A dataset can't be used; the message names file, field and row.
        CheckpointError: A model's files can't be used, or aren't those that the datasets were labelled with.
        TrainingStateError: `out` holds the state of another training.
        ValueError: The target needs no router, or nothing reaches it.
    """
    if num_threads:
        torch.set_num_threads(num_threads)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    pair = _checked_pair(train, validation)
    embedding = load_slm_embedding(slm_dir)
    _check_slm(slm_dir, embedding, pair)
    if not allow_other_slm:
        check_slm_weights(slm_dir, pair.slm, train)
    sizes = ModelSizes(
        count_stored_parameters(slm_dir),
        Router(recipe.router_config(embedding.size(1))).num_parameters,
        count_stored_parameters(llm_dir),
    )
    check_target(target, sizes)
    check_disjoint(train, validation)
    train_data, validation_data = (_load(folder, recipe) for folder in (train, validation))
    workshop = out / TRAINING_DIR
    workshop.mkdir(parents=True, exist_ok=True)
    router, epochs = train_router(
        recipe, train_data, validation_data, embedding, seed=seed, device=device, state_path=workshop / _STATE_FILE,
        show_steps=show_steps, on_epoch=on_epoch,
    )  # fmt: skip
    logits = _recentre_on_target(router, validation_data, embedding, sizes, target)
    description = RouterDescription(
        config=router.config,
        slm=pair.slm,
        llm=pair.llm,
        threshold=DEFAULT_THRESHOLD,
        sweep=tuple(sweep_thresholds(logits, validation_data.divergent, sizes)),
        metrics=calibration_metrics(logits, validation_data, sizes, DEFAULT_THRESHOLD)
        | {"seed": float(seed), "epochs": float(len(epochs))},
        data=statistics_of("train", train) | statistics_of("validation", validation),
        objective=recipe.objective,
    )
    write_curves(epochs, workshop)
    write_sweep(description, workshop)
    save_checkpoint(RouterCheckpoint(router, description, embedding if with_embedding else None), out)
    (workshop / _STATE_FILE).unlink()
    return description


def calibration_metrics(logits: Tensor, data: RoutingData, sizes: ModelSizes, threshold: float) -> dict[str, float]:
    """Figures of a router on validation rows.

    Args:
        logits: f32 [rows], the router's output.
        data: The rows.
        sizes: Sizes of the three models.
        threshold: The default threshold.

    Returns:
        By name. AUC, recall and precision are of divergent tokens, whatever the router was taught.
    """
    probabilities = torch.sigmoid(logits)
    at_default = measure_threshold(probabilities, data.divergent, threshold, sizes)
    near = (probabilities - threshold).abs() < TIE_MARGIN
    return {
        "validation_auc": area_under_roc(logits, data.divergent),
        "validation_llm_usage_rate": at_default.llm_usage_rate,
        "validation_recall": at_default.recall,
        "validation_precision": at_default.precision,
        "validation_avg_activated_params_b": at_default.avg_activated_params_b,
        "validation_tokens": float(len(logits)),
        "validation_tokens_near_threshold": float(near.sum()),
        **{f"{name}_params": float(number) for name, number in dataclasses.asdict(sizes).items()},
    }


def _recentre_on_target(
    router: Router, validation: RoutingData, embedding: Tensor, sizes: ModelSizes, target: Target
) -> Tensor:
    """Moves the threshold for the target to `DEFAULT_THRESHOLD`; returns the logits of the moved router."""
    logits = predict_logits(router, validation, embedding)
    threshold = choose_threshold(sweep_thresholds(logits, validation.divergent, sizes), target, sizes)
    recentre(router, threshold, fit_slope(logits, validation.targets))
    return predict_logits(router, validation, embedding)


def _checked_pair(train: Path, validation: Path) -> LabelledPair:
    pair = labelled_pair(train)
    other = labelled_pair(validation)
    if not (other.slm.is_same_model(pair.slm) and _may_be_same(other.llm, pair.llm)):
        raise DatasetError(
            f"{validation}: was labelled with {other.slm.model_id!r} and {other.llm.model_id!r} at revisions "
            f"{other.slm.revision} and {other.llm.revision}; {train}: with {pair.slm.model_id!r} and "
            f"{pair.llm.model_id!r} at {pair.slm.revision} and {pair.llm.revision}"
        )
    return pair


def _may_be_same(llm: ModelIdentity, other: ModelIdentity) -> bool:
    """Whether two LLMs may be one. A served one doesn't always tell its weights."""
    sizes = [(each.vocab_size, each.hidden_size, each.tokenizer_sha256) for each in (llm, other)]
    return sizes[0] == sizes[1] and (llm.revision == other.revision or not (llm.revision and other.revision))


def _check_slm(slm_dir: Path, embedding: Tensor, pair: LabelledPair) -> None:
    # A model may pad its embedding beyond the vocabulary.
    if embedding.size(0) < pair.slm.vocab_size or embedding.size(1) != pair.slm.hidden_size:
        raise CheckpointError(
            f"{slm_dir}: the SLM's embedding has shape {tuple(embedding.shape)}, the datasets were labelled with "
            f"({pair.slm.vocab_size}, {pair.slm.hidden_size}) of {pair.slm.model_id!r}"
        )
    if tokenizer_sha256(load_tokenizer(str(slm_dir))) != pair.slm.tokenizer_sha256:
        raise CheckpointError(
            f"{slm_dir}: tokenizer.json isn't that of {pair.slm.model_id!r}, which the datasets were labelled with"
        )


def _load(folder: Path, recipe: RouterRecipe) -> RoutingData:
    data = load_routing_data(folder, recipe.objective)
    check_logits(folder, data, recipe.sizes.num_top_logits, f"the recipe {recipe.name!r}")
    check_classes(folder, data)
    return data


def statistics_of(name: str, folder: Path) -> dict[str, dict[str, float]]:
    """Counts of a dataset under the set's name, and of each of its domains under `name/domain`."""
    return {
        name if domain == "all" else f"{name}/{domain}": counts
        for domain, counts in dataset_statistics(folder).items()
    }
