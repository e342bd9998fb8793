"""Routing data in memory: features and labels, one row per drafted token."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from router_service.model import Objective

Batch = tuple[tuple[Tensor, Tensor, Tensor], Tensor]
"""The router's three inputs f32 [batch, width], and f32 [batch] targets, 1 where the token is to be routed."""
NEUTRAL, DIVERGENT = 1, 2
"""Labels beside 0, identical: the models differ but mean the same; the SLM's token changes what is said."""


@dataclass(frozen=True)
class RoutingData:
    """Features of drafted tokens with their labels.

    Embeddings are looked up by id when a batch is made, not stored per row.

    Attributes:
        hidden_state: f32 or f16 [rows, slm_hidden].
        top_logits: f32 or f16 [rows, num_top_logits].
        token_ids: i64 [rows], the SLM's tokens.
        labels: i8 [rows], 0 identical, 1 neutral, 2 divergent.
        objective: Which labels are to be routed.
    """

    hidden_state: Tensor
    top_logits: Tensor
    token_ids: Tensor
    labels: Tensor
    objective: Objective = "divergent"

    def __post_init__(self) -> None:
        """Refuses parts of different length.

        Raises:
            ValueError: Naming the part.
        """
        for name in ("top_logits", "token_ids", "labels"):
            rows = getattr(self, name).size(0)
            if rows != self.hidden_state.size(0):
                raise ValueError(f"{name} has {rows} rows, hidden_state has {self.hidden_state.size(0)}")

    def __len__(self) -> int:
        """Counts rows."""
        return self.hidden_state.size(0)

    @property
    def divergent(self) -> Tensor:
        """Bool [rows]: the token changes what is said. What recall is measured on, whatever the objective."""
        return self.labels == DIVERGENT

    @property
    def targets(self) -> Tensor:
        """Bool [rows]: the token is to be routed, by the objective."""
        return self.labels >= (DIVERGENT if self.objective == "divergent" else NEUTRAL)

    def batches(
        self, slm_embedding: Tensor, batch_size: int, generator: torch.Generator | None = None
    ) -> Iterator[Batch]:
        """Yields every row once, on the embedding's device.

        Args:
            slm_embedding: f32 [vocab, slm_hidden].
            batch_size: Rows of a batch; the last may hold fewer.
            generator: Shuffles the rows; None keeps their order.

        Yields:
            The router's three inputs in float32, and f32 [batch] targets.
        """
        device, targets = slm_embedding.device, self.targets
        order = torch.arange(len(self)) if generator is None else torch.randperm(len(self), generator=generator)
        for rows in torch.split(order, batch_size):
            hidden_state = self.hidden_state[rows].to(device).float()
            top_logits = self.top_logits[rows].to(device).float()
            embedding = slm_embedding[self.token_ids[rows].to(device)]
            yield (hidden_state, top_logits, embedding), targets[rows].to(device).float()
