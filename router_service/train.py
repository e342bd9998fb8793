"""Train a router on labelled tokens.

Source: arXiv:2505.21600 A.3. deviation: the untrained projections are scaled to the spread of their inputs; the
architecture stays the paper's.
"""

import logging
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from router_service.dataset import RoutingData
from router_service.model import Router, RouterConfig

logger = logging.getLogger(__name__)

_MIN_STD = 1e-3
_EVAL_BATCH = 8192


@dataclass(frozen=True)
class RouterTraining:
    """How a router is trained.

    Attributes:
        learning_rate: AdamW's learning rate.
        betas: AdamW's betas.
        weight_decay: AdamW's decoupled weight decay.
        batch_size: Tokens in a step.
        max_epochs: Limit on passes over the data.
        patience: Epochs without a better validation loss before training stops.
        seed: Seed of weights, order and dropout.
    """

    learning_rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 5e-4
    batch_size: int = 1024
    max_epochs: int = 50
    patience: int = 10
    seed: int = 1


def train_router(
    config: RouterConfig,
    training: RouterTraining,
    train_data: RoutingData,
    validation_data: RoutingData,
    slm_embedding: Tensor,
    on_epoch: Callable[[int, float], None] | None = None,
) -> Router:
    """Train a router; the same arguments give the same weights.

    Args:
        config: The router's sizes.
        training: How it is trained.
        train_data: Rows to learn from.
        validation_data: Rows that decide when to stop.
        slm_embedding: f32 [vocab, slm_hidden].
        on_epoch: Told the epoch (from 1) and its validation loss.

    Returns:
        The router of the epoch with the lowest validation loss, in evaluation mode.

    Raises:
        ValueError: If the training rows hold one class only.
    """
    weight = divergent_weight(train_data.divergent)
    torch.manual_seed(training.seed)
    generator = torch.Generator().manual_seed(training.seed)
    router = Router(config)
    standardise_inputs(router, train_data, slm_embedding)
    loss_fn = nn.BCEWithLogitsLoss(pos_weight=weight)
    optimizer = torch.optim.AdamW(router.parameters(), lr=training.learning_rate, betas=training.betas,
                                  weight_decay=training.weight_decay)  # fmt: skip
    best_loss, best_state, since_best = float("inf"), deepcopy(router.state_dict()), 0
    for epoch in range(1, training.max_epochs + 1):
        router.train()
        for inputs, targets in train_data.batches(slm_embedding, training.batch_size, generator):
            optimizer.zero_grad(set_to_none=True)
            loss_fn(router(*inputs), targets).backward()
            optimizer.step()
        loss = float(loss_fn(predict_logits(router, validation_data, slm_embedding),
                             validation_data.divergent.float()))  # fmt: skip
        logger.info("router epoch %d, validation loss %.4f", epoch, loss)
        if on_epoch is not None:
            on_epoch(epoch, loss)
        since_best += 1
        if loss < best_loss:
            best_loss, best_state, since_best = loss, deepcopy(router.state_dict()), 0
        if since_best >= training.patience:
            break
    router.load_state_dict(best_state)
    return router.eval()


def divergent_weight(divergent: Tensor) -> Tensor:
    """Weight of a divergent row, inverse to the classes' frequencies.

    Args:
        divergent: bool [rows].

    Returns:
        f32 scalar: rows that are not divergent, per row that is.

    Raises:
        ValueError: If either class is empty.

    Source: arXiv:2505.21600 A.3.
    """
    num_divergent = int(divergent.sum())
    if num_divergent in (0, divergent.numel()):
        raise ValueError(
            f"{num_divergent} of {divergent.numel()} training rows are divergent; both classes are needed"
        )
    return torch.tensor((divergent.numel() - num_divergent) / num_divergent)


@torch.no_grad()
def standardise_inputs(router: Router, data: RoutingData, slm_embedding: Tensor) -> None:
    """Change an untrained router's projections so that they see each input with mean 0 and deviation 1.

    The change is made in the projections' own weights, so the architecture stays what it is.

    Args:
        router: The router, changed in place.
        data: Rows to measure.
        slm_embedding: f32 [vocab, slm_hidden].
    """
    measured = {
        "hidden_state": data.hidden_state,
        "top_logits": data.top_logits,
        "token_embedding": slm_embedding[data.token_ids],
    }
    for name, projection in router.projections.items():
        std, mean = torch.std_mean(measured[name], dim=0)
        weight, bias = projection.get_parameter("weight"), projection.get_parameter("bias")
        weight.div_(std.clamp_min(_MIN_STD))
        bias.sub_(weight @ mean)


@torch.inference_mode()
def predict_logits(router: Router, data: RoutingData, slm_embedding: Tensor) -> Tensor:
    """Compute the logits of all rows, in order.

    Args:
        router: The router; it is put in evaluation mode.
        data: Rows to score.
        slm_embedding: f32 [vocab, slm_hidden].

    Returns:
        f32 [rows].
    """
    router.eval()
    return torch.cat([router(*inputs) for inputs, _ in data.batches(slm_embedding, _EVAL_BATCH)])
