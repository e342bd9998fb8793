"""Training of small binary classifiers, and the scaling of what they read."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

_HOLD_OUT = 10
"""One query in this many decides which epoch is kept."""


@dataclass(frozen=True)
class ClassifierTraining:
    """How a classifier is trained.

    Attributes:
        learning_rate: AdamW's.
        weight_decay: AdamW's.
        batch_size: Queries in a step.
        max_epochs: Passes over the data.
    """

    learning_rate: float
    weight_decay: float
    batch_size: int = 64
    max_epochs: int = 30


def train_classifier(
    model: nn.Module, inputs: Tensor, labels: Tensor, training: ClassifierTraining, seed: int
) -> None:
    """Trains a classifier and leaves it, in evaluation mode, with the weights of its best epoch on held-out queries.

    Args:
        model: Maps a batch of `inputs` to logits, f32 [batch].
        inputs: [queries, ...].
        labels: f32 [queries], 0 or 1.
        training: How.
        seed: Of the order, dropout, and which queries are held out.
    """
    torch.manual_seed(seed)
    order = torch.randperm(len(inputs))
    held_out, trained = order[::_HOLD_OUT], order[torch.arange(len(order)) % _HOLD_OUT != 0]
    loss_fn = nn.BCEWithLogitsLoss()
    optimizer = torch.optim.AdamW(model.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay)
    best_loss, best_state = float("inf"), deepcopy(model.state_dict())
    for _ in range(training.max_epochs):
        model.train()
        for rows in torch.split(trained[torch.randperm(len(trained))], training.batch_size):
            optimizer.zero_grad(set_to_none=True)
            loss_fn(model(inputs[rows]), labels[rows]).backward()
            optimizer.step()
        loss = float(loss_fn(predict(model, inputs[held_out]), labels[held_out]))
        if loss < best_loss:
            best_loss, best_state = loss, deepcopy(model.state_dict())
    model.load_state_dict(best_state)
    model.eval()


@torch.no_grad()
def predict(model: nn.Module, inputs: Tensor, batch_size: int = 256) -> Tensor:
    """Logits f32 [queries] of `inputs` [queries, ...]; the model is put in evaluation mode."""
    model.eval()
    return torch.cat([model(part) for part in torch.split(inputs, batch_size)])


@dataclass(frozen=True)
class Scaling:
    """Brings features to mean 0 and deviation 1, as measured on training queries.

    Attributes:
        mean: f32 [features].
        std: f32 [features].
    """

    mean: Tensor
    std: Tensor

    @classmethod
    def measure(cls, features: Tensor) -> Scaling:
        """Measures f32 [queries, features]."""
        std, mean = torch.std_mean(features, dim=0)
        return cls(mean, std.clamp_min(1e-3))

    def apply(self, features: Tensor) -> Tensor:
        """Scale f32 [queries, features]."""
        return (features - self.mean) / self.std
