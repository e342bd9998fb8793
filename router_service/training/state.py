"""What a router's training needs to go on after it was cut short, in one safetensors file. No pickle.

Tensors are the weights, the best weights so far, AdamW's moments and the states of the random generators; everything
else is JSON in the file's header. One file, written aside and renamed: there is always a whole state or none.
"""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from router_service.model import Router

_HEADER = "trivium_training"


class TrainingStateError(ValueError):
    """A saved training can't be resumed. The message names the file."""


@dataclass(frozen=True)
class EpochRecord:
    """What one epoch came to.

    Attributes:
        epoch: From 1.
        train_loss: Mean weighted loss of its steps.
        validation_loss: Weighted loss on the validation rows after it.
        validation_auc: Area under the ROC curve there, for the objective.
        learning_rate: At its end.
    """

    epoch: int
    train_loss: float
    validation_loss: float
    validation_auc: float
    learning_rate: float


@dataclass
class TrainingProgress:
    """How far a training is.

    Attributes:
        epochs: Finished epochs, in order.
        num_steps: Optimizer steps taken.
        best_epoch: The epoch of the lowest validation loss; 0 before the first.
    """

    epochs: list[EpochRecord] = field(default_factory=list)
    num_steps: int = 0
    best_epoch: int = 0

    @property
    def best_loss(self) -> float:
        """Lowest validation loss so far."""
        return self.epochs[self.best_epoch - 1].validation_loss if self.best_epoch else float("inf")


@dataclass
class TrainingState:
    """A training between two epochs.

    Attributes:
        router: Its weights.
        optimizer: AdamW over the router's parameters, in their order.
        best_weights: Weights of the best epoch, by name.
        order: Shuffles the rows.
        progress: How far it is.
    """

    router: Router
    optimizer: torch.optim.AdamW
    best_weights: dict[str, Tensor]
    order: torch.Generator
    progress: TrainingProgress

    def save(self, path: Path, fingerprint: str) -> None:
        """Writes the state; the file changes whole or not at all.

        Args:
            path: The file.
            fingerprint: Of everything that decides the training, to be held against when it is resumed.
        """
        tensors = {f"weights.{name}": value for name, value in self.router.state_dict().items()}
        tensors |= {f"best.{name}": value for name, value in self.best_weights.items()}
        for index, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": value for name, value in moments.items()}
        tensors |= {f"random.{name}": value for name, value in self._random_states().items()}
        header = {"fingerprint": fingerprint, "progress": dataclasses.asdict(self.progress)}
        aside = path.with_name(f"{path.name}.tmp")
        save_file({name: value.contiguous() for name, value in tensors.items()}, aside, {_HEADER: json.dumps(header)})
        aside.replace(path)

    def restore(self, path: Path, fingerprint: str) -> None:
        """Becomes the saved state.

        Raises:
            TrainingStateError: The file is damaged, or of another training.
        """
        header, tensors = _read(path)
        if header["fingerprint"] != fingerprint:
            raise TrainingStateError(
                f"{path}: is of a training with another recipe, seed or dataset; remove it, or write elsewhere"
            )
        groups: dict[str, dict[str, Tensor]] = {"weights": {}, "best": {}, "optimizer": {}, "random": {}}
        for name, value in tensors.items():
            group, _, rest = name.partition(".")
            groups[group][rest] = value
        self.router.load_state_dict(groups["weights"])
        self.best_weights = groups["best"]
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in groups["optimizer"].items():
            index, _, moment = name.partition(".")
            moments.setdefault(int(index), {})[moment] = value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})
        self.order.set_state(groups["random"]["order"])
        torch.set_rng_state(groups["random"]["cpu"])
        if "cuda" in groups["random"]:
            torch.cuda.set_rng_state(groups["random"]["cuda"])
        progress = header["progress"]
        self.progress = TrainingProgress(
            [EpochRecord(**epoch) for epoch in progress["epochs"]], progress["num_steps"], progress["best_epoch"]
        )

    def _random_states(self) -> dict[str, Tensor]:
        states = {"order": self.order.get_state(), "cpu": torch.get_rng_state()}
        if next(self.router.parameters()).is_cuda:
            states["cuda"] = torch.cuda.get_rng_state()
        return states


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})[_HEADER])
            return header, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise TrainingStateError(f"{path}: not a readable state of a training: {error}") from error
