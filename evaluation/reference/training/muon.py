"""Muon: an optimizer for the weight matrices of hidden layers (momentum, then orthogonalisation of the update).

Embeddings, norms and biases are left to AdamW. Source: Jordan et al., "Muon: An optimizer for hidden layers in neural
networks", 2024.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

_QUINTIC = (3.4445, -4.7750, 2.0315)
_NUM_ITERATIONS = 5


def orthogonalise(update: Tensor) -> Tensor:
    """Brings all singular values of a matrix near 1 with a quintic Newton-Schulz iteration.

    Args:
        update: f32 [rows, columns].

    Returns:
        f32 [rows, columns], with the singular vectors of `update`.
    """
    a, b, c = _QUINTIC
    tall = update.size(0) > update.size(1)
    wide = update.T if tall else update
    x: Tensor = (wide / (wide.norm() + 1e-7)).bfloat16()
    for _ in range(_NUM_ITERATIONS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.T if tall else x).float()


class Muon(torch.optim.Optimizer):
    """Nesterov momentum whose update is orthogonalised and scaled by the matrix's shape."""

    def __init__(
        self, matrices: Iterable[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        """Takes charge of `matrices`, each of two dimensions.

        Args:
            matrices: Parameters to optimise.
            lr: Learning rate, as a spectral norm per step for a square matrix.
            momentum: Decay of the gradient average.
            weight_decay: Decoupled weight decay, scaled by the learning rate.
        """
        super().__init__(matrices, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Applies one update; `closure` is not supported."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                buffer = state.setdefault("momentum_buffer", torch.zeros_like(parameter.grad))
                buffer.lerp_(parameter.grad, 1 - group["momentum"])
                update = orthogonalise(parameter.grad.lerp(buffer, group["momentum"]))
                scale = max(1.0, parameter.size(0) / parameter.size(1)) ** 0.5
                parameter.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-group["lr"] * scale)
