"""Calibrates a router that is trained already: a new sweep over validation data, and a new default threshold.

Owns what changes in the checkpoint: its description; that of an imported router learns here which LLM it is for. The
weights stay as they are.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import torch

from router_service.checkpoint import (
    RouterCheckpoint,
    check_slm_weights,
    count_stored_parameters,
    load_checkpoint,
    load_slm_embedding,
)
from router_service.checkpoint_files import DESCRIPTION_FILE, CheckpointError
from router_service.description import RouterDescription, write_description
from router_service.training.build import TRAINING_DIR, calibration_metrics, statistics_of
from router_service.training.calibrate import (
    Target,
    choose_threshold,
    measure_threshold,
    sweep_thresholds,
)
from router_service.training.checks import check_classes, check_logits, check_target
from router_service.training.dataset import DatasetError, LabelledPair, labelled_pair, load_routing_data
from router_service.training.figures import write_sweep
from router_service.training.train import predict_logits
from services.common.model_sizes import ModelSizes
from services.common.weights import are_other_weights, folder_revision


def recalibrate(
    folder: Path,
    validation: Path,
    target: Target,
    slm_dir: Path,
    decoded_usage: Mapping[float, float] | None = None,
    *,
    llm_dir: Path | None = None,
    num_threads: int = 0,
) -> RouterDescription:
    """Sweeps thresholds over validation data and writes the one for a target into the checkpoint as its default.

    Args:
        folder: The checkpoint; its description changes whole or not at all.
        validation: Dataset of queries that the router hasn't learned from.
        target: What the default threshold is chosen for.
        slm_dir: The small model's folder, read where the checkpoint holds no embedding.
        decoded_usage: LLM usage of thresholds that was measured on a running pair. Targets are then met by it.
        llm_dir: The large model's folder, whose size is read where the checkpoint doesn't tell it.
        num_threads: CPU threads of this process; 0 leaves torch's default.

    Returns:
        The checkpoint's new description.

    Raises:
        CheckpointError: The checkpoint, or a model's folder, can't be used.
        DatasetError: The dataset can't be used, or was labelled with another pair.
        ValueError: The target needs no router, or nothing reaches it.
    """
    if num_threads:
        torch.set_num_threads(num_threads)
    checkpoint = load_checkpoint(folder)
    old = checkpoint.description
    pair = labelled_pair(validation)
    for role, (of_router, of_data) in {"slm": (old.slm, pair.slm), "llm": (old.llm or pair.llm, pair.llm)}.items():
        if not of_router.is_same_model(of_data):
            raise DatasetError(
                f"{validation}: was labelled with {role} {of_data.model_id!r} at revision {of_data.revision!r}; "
                f"{folder}: the router was trained for {of_router.model_id!r} at {of_router.revision!r}"
            )
    sizes = _sizes(folder, checkpoint, pair, llm_dir)
    check_target(target, sizes)
    counts = statistics_of("validation", validation)
    # A checkpoint keeps no rows; the same number of queries, tokens and labels of every kind is no accident.
    if counts["validation"] == old.data.get("train"):
        raise DatasetError(f"{validation}: is the dataset that the router has learnt from; take other queries")
    data = load_routing_data(validation, old.objective)
    check_logits(validation, data, old.config.num_top_logits, f"the router in {folder}")
    check_classes(validation, data)
    embedding = checkpoint.slm_embedding
    if embedding is None:
        embedding = load_slm_embedding(slm_dir)
        check_slm_weights(slm_dir, old.slm, folder)
    logits = predict_logits(checkpoint.router, data, embedding)
    rows = {row.threshold: row for row in sweep_thresholds(logits, data.divergent, sizes)}
    for threshold, usage in (decoded_usage or {}).items():
        row = measure_threshold(torch.sigmoid(logits), data.divergent, threshold, sizes)
        rows[threshold] = dataclasses.replace(row, decoded_llm_usage_rate=usage)
    sweep = tuple(rows[threshold] for threshold in sorted(rows, reverse=True))
    threshold = choose_threshold(sweep, target, sizes)
    description = dataclasses.replace(
        old,
        llm=old.llm or pair.llm,
        threshold=threshold,
        sweep=sweep,
        metrics=old.metrics | calibration_metrics(logits, data, sizes, threshold),
        data={name: counts for name, counts in old.data.items() if not name.startswith("validation")} | counts,
    )
    write_description(description, folder / DESCRIPTION_FILE)
    write_sweep(description, folder / TRAINING_DIR)
    return description


def _sizes(folder: Path, checkpoint: RouterCheckpoint, pair: LabelledPair, llm_dir: Path | None) -> ModelSizes:
    metrics = dict(checkpoint.description.metrics)
    if "llm_params" not in metrics and llm_dir is not None:
        if are_other_weights(found := folder_revision(llm_dir), pair.llm.revision):
            raise CheckpointError(
                f"{llm_dir}: the LLM's weights are {found}; the dataset was labelled with {pair.llm.revision} of "
                f"{pair.llm.model_id!r}"
            )
        metrics["llm_params"] = float(count_stored_parameters(llm_dir))
    for name in ("slm_params", "llm_params"):
        if name not in metrics:
            raise CheckpointError(f"{folder / DESCRIPTION_FILE}: metrics lacks {name!r}, the size of the model")
    return ModelSizes(int(metrics["slm_params"]), checkpoint.router.num_parameters, int(metrics["llm_params"]))
