"""Train a router on labelled tokens.

Deterministic: the same recipe, seed, data and machine give the same bits, and a training that was killed and resumed
gives the bits of one that wasn't.

Source: arXiv:2505.21600 A.3. deviation: the untrained first layers are scaled to the spread of their inputs; the
architecture stays the paper's. Warm-up and clipping are added.
"""

import dataclasses
import hashlib
import math
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from router_service.model import Router
from router_service.training.calibrate import area_under_roc
from router_service.training.recipe import RouterRecipe, RouterTraining
from router_service.training.routing_data import Batch, RoutingData
from router_service.training.state import EpochRecord, TrainingProgress, TrainingState

_MIN_STD = 1e-3
_EVAL_BATCH = 8192

ShowSteps = Callable[[Iterable[Batch], int, int], Iterable[Batch]]
"""Passes the steps of an epoch through; told their number and the epoch."""


def train_router(
    recipe: RouterRecipe,
    train_data: RoutingData,
    validation_data: RoutingData,
    slm_embedding: Tensor,
    *,
    seed: int,
    device: str = "cpu",
    state_path: Path | None = None,
    show_steps: ShowSteps | None = None,
    on_epoch: Callable[[EpochRecord], None] | None = None,
) -> tuple[Router, list[EpochRecord]]:
    """Trains a router; the same arguments give the same weights.

    Args:
        recipe: Sizes, inputs and training.
        train_data: Rows to learn from.
        validation_data: Rows that decide when to stop.
        slm_embedding: f32 [vocab, slm_hidden].
        seed: Of weights, order and dropout.
        device: torch device.
        state_path: Where the training is kept after every epoch, and resumed from. None keeps nothing.
        show_steps: Shows a progress bar.
        on_epoch: Told of every epoch as it ends.

    Returns:
        The router of the epoch with the lowest validation loss, on the CPU in evaluation mode; and all epochs.

    Raises:
        ValueError: If the training rows hold one class only.
        TrainingStateError: If the state that is there can't be resumed.
    """
    with torch.random.fork_rng(devices=[device] if device.startswith("cuda") else []):
        torch.manual_seed(seed)
        embedding = slm_embedding.to(device)
        state = _begin(recipe, train_data, embedding, seed)
        fingerprint = (
            "" if state_path is None else _fingerprint(recipe, seed, slm_embedding, train_data, validation_data)
        )
        if state_path is not None and state_path.exists():
            state.restore(state_path, fingerprint)
        loss_fn = nn.BCEWithLogitsLoss(pos_weight=target_weight(train_data.targets).to(device))
        while not _is_over(state.progress, recipe.training):
            epoch = len(state.progress.epochs) + 1
            batches = train_data.batches(embedding, recipe.training.batch_size, state.order)
            steps = math.ceil(len(train_data) / recipe.training.batch_size)
            shown = show_steps(batches, steps, epoch) if show_steps is not None else batches
            train_loss = _train_epoch(state, recipe.training, loss_fn, shown, steps * recipe.training.max_epochs)
            record = _validate(state, epoch, train_loss, loss_fn, validation_data, embedding)
            if state_path is not None:
                state.save(state_path, fingerprint)
            if on_epoch is not None:
                on_epoch(record)
    state.router.load_state_dict(state.best_weights)
    return state.router.cpu().eval(), state.progress.epochs


def _begin(recipe: RouterRecipe, data: RoutingData, embedding: Tensor, seed: int) -> TrainingState:
    # Weights are drawn on the CPU, so that a seed means the same on every device.
    router = Router(recipe.router_config(embedding.size(1)))
    standardise_inputs(router, data, embedding.cpu())
    router.to(embedding.device)
    training = recipe.training
    optimizer = torch.optim.AdamW(router.parameters(), lr=training.learning_rate, betas=training.betas,
                                  weight_decay=training.weight_decay)  # fmt: skip
    return TrainingState(router, optimizer, {}, torch.Generator().manual_seed(seed), TrainingProgress())


def _is_over(progress: TrainingProgress, training: RouterTraining) -> bool:
    num_epochs = len(progress.epochs)
    return num_epochs >= training.max_epochs or num_epochs - progress.best_epoch >= training.patience


def _train_epoch(
    state: TrainingState,
    training: RouterTraining,
    loss_fn: nn.BCEWithLogitsLoss,
    batches: Iterable[Batch],
    max_steps: int,
) -> float:
    state.router.train()
    losses = []
    for inputs, targets in batches:
        state.progress.num_steps += 1
        for group in state.optimizer.param_groups:
            group["lr"] = learning_rate_at(training, state.progress.num_steps, max_steps)
        # On a CPU half precision saves nothing, and its bits depend on the instruction set.
        is_mixed = training.mixed_precision and targets.is_cuda
        with torch.autocast(targets.device.type, dtype=torch.bfloat16, enabled=is_mixed):
            logits = state.router(*inputs)
        loss = loss_fn(logits.float(), targets)
        state.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(state.router.parameters(), training.max_grad_norm, error_if_nonfinite=True)
        state.optimizer.step()
        losses.append(loss.detach())
    return float(torch.stack(losses).mean())


def learning_rate_at(training: RouterTraining, step: int, max_steps: int) -> float:
    """The learning rate of a step.

    Args:
        training: Peak, warm-up and schedule.
        step: From 1.
        max_steps: Steps of all epochs that there may be.
    """
    rate = training.learning_rate * min(1.0, step / max(1, training.warmup_steps))
    if training.schedule == "cosine":
        rate *= (1.0 + math.cos(math.pi * (step - 1) / max_steps)) / 2.0
    return rate


def _validate(
    state: TrainingState,
    epoch: int,
    train_loss: float,
    loss_fn: nn.BCEWithLogitsLoss,
    data: RoutingData,
    embedding: Tensor,
) -> EpochRecord:
    logits = predict_logits(state.router, data, embedding)
    record = EpochRecord(
        epoch=epoch,
        train_loss=train_loss,
        validation_loss=float(loss_fn(logits, data.targets.to(logits.device).float())),
        validation_auc=area_under_roc(logits.cpu(), data.targets),
        learning_rate=state.optimizer.param_groups[0]["lr"],
    )
    progress = state.progress
    if record.validation_loss < progress.best_loss or not progress.best_epoch:
        progress.best_epoch = epoch
        state.best_weights = {name: value.detach().clone() for name, value in state.router.state_dict().items()}
    progress.epochs.append(record)
    return record


def _fingerprint(recipe: RouterRecipe, seed: int, slm_embedding: Tensor, *data: RoutingData) -> str:
    """Digest of everything that decides a training: all that the loss is computed from, its features included."""
    digest = hashlib.sha256(recipe.model_dump_json(exclude={"name", "description"}).encode())
    digest.update(b"%d" % seed)
    _digest_tensor(digest, slm_embedding)
    for rows in data:
        for part in dataclasses.fields(rows):
            value = getattr(rows, part.name)
            if isinstance(value, Tensor):
                _digest_tensor(digest, value)
            else:
                digest.update(repr(value).encode())
    return digest.hexdigest()


def _digest_tensor(digest: "hashlib._Hash", value: Tensor) -> None:
    digest.update(f"{value.dtype} {tuple(value.shape)}".encode())
    # A view, not a copy: features fill most of the memory.
    digest.update(value.cpu().contiguous().numpy().data)


def target_weight(targets: Tensor) -> Tensor:
    """Weight of a row that is to be routed, inverse to the classes' frequencies.

    Args:
        targets: bool [rows].

    Returns:
        f32 scalar: rows that are not to be routed, per row that is.

    Raises:
        ValueError: If either class is empty.

    Source: arXiv:2505.21600 A.3.
    """
    num_routed = int(targets.sum())
    if num_routed in (0, targets.numel()):
        raise ValueError(f"{num_routed} of {targets.numel()} training rows are to be routed; both classes are needed")
    return torch.tensor((targets.numel() - num_routed) / num_routed)


@torch.no_grad()
def standardise_inputs(router: Router, data: RoutingData, slm_embedding: Tensor) -> None:
    """Changes an untrained router's first layers so that they see each input with mean 0 and deviation 1.

    The change is made in the layers' own weights, so the architecture stays what it is.

    Args:
        router: The router, changed in place.
        data: Rows to measure.
        slm_embedding: f32 [vocab, slm_hidden].
    """
    moments = _moments(data, slm_embedding)
    for name in router.config.inputs:
        mean, std = moments[name]
        weight, bias = router.first_layer(name)
        weight.div_(std.clamp_min(_MIN_STD))
        bias.sub_(weight @ mean)


def _moments(data: RoutingData, slm_embedding: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Mean and deviation of each input's columns, batch by batch: the rows may fill most of the memory."""
    names = ("hidden_state", "top_logits", "token_embedding")
    sums = {name: torch.zeros(2, 1, dtype=torch.float64) for name in names}
    for inputs, _ in data.batches(slm_embedding, _EVAL_BATCH):
        for name, values in zip(names, inputs, strict=True):
            exact = values.double()
            sums[name] = sums[name] + torch.stack([exact.sum(dim=0), exact.square().sum(dim=0)])
    moments = {}
    for name, (total, squares) in sums.items():
        mean = total / len(data)
        variance = (squares / len(data) - mean.square()).clamp_min(0.0)
        moments[name] = mean.float(), variance.sqrt().float()
    return moments


@torch.inference_mode()
def predict_logits(router: Router, data: RoutingData, slm_embedding: Tensor) -> Tensor:
    """Computes the logits of all rows, in order.

    Args:
        router: The router; it is put in evaluation mode.
        data: Rows to score.
        slm_embedding: f32 [vocab, slm_hidden], on the router's device.

    Returns:
        f32 [rows].
    """
    router.eval()
    return torch.cat([router(*inputs) for inputs, _ in data.batches(slm_embedding, _EVAL_BATCH)])
