"""The neural router: three inputs of the SLM in, one logit out.

Source: arXiv:2505.21600 A.1.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from services.engines.base import TOP_LOGITS

InputName = Literal["hidden_state", "top_logits", "token_embedding"]
ALL_INPUTS: tuple[InputName, ...] = get_args(InputName)
Layout = Literal["all_projected", "logits_projected"]
"""How the inputs enter the backbone.

- "logits_projected": the paper's network and its authors' published routers. The logits are projected; hidden state
  and embedding are read as they are, and one more linear layer stands between the merge and the blocks.
- "all_projected": each input is projected, and the blocks follow the merge. Smaller where the projections are narrow.
"""
Objective = Literal["divergent", "different"]
"""Which of the SLM's tokens a router is taught to find: those that change what is said, or all that differ from the
LLM's.

Source: arXiv:2505.21600 §5.4.
"""


@dataclass(frozen=True)
class RouterConfig:
    """Every size of the router; the defaults are the paper's sizes.

    Attributes:
        slm_hidden_size: Width of the SLM's hidden state and of its token embedding.
        num_top_logits: How many logits are read.
        projection_size: Width that an input is projected to; None: `slm_hidden_size`, as in the paper.
        hidden_size: Width of the residual backbone.
        num_blocks: Residual blocks.
        expansion: How much wider a block is inside.
        dropout: Dropout after each linear layer of a block, while training.
        inputs: Which inputs are read, in the order of `ALL_INPUTS`.
        layout: How they enter. The default isn't the paper's: it is what descriptions without a layout mean.
    """

    slm_hidden_size: int
    num_top_logits: int = TOP_LOGITS
    projection_size: int | None = None
    hidden_size: int = 1024
    num_blocks: int = 6
    expansion: int = 4
    dropout: float = 0.1
    inputs: tuple[InputName, ...] = ALL_INPUTS
    layout: Layout = "all_projected"

    def __post_init__(self) -> None:
        """Refuses sizes that make no router.

        Raises:
            ValueError: Naming the field.
        """
        for name in ("slm_hidden_size", "num_top_logits", "hidden_size", "num_blocks", "expansion"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.projection_size is not None and self.projection_size < 1:
            raise ValueError(f"projection_size must be at least 1, not {self.projection_size}")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout must lie in [0, 1), not {self.dropout}")
        if not self.inputs or self.inputs != tuple(name for name in ALL_INPUTS if name in self.inputs):
            raise ValueError(f"inputs must be some of {ALL_INPUTS} in this order, not {self.inputs}")
        if self.layout not in get_args(Layout):
            raise ValueError(f"layout must be one of {get_args(Layout)}, not {self.layout!r}")

    @property
    def projected_inputs(self) -> tuple[InputName, ...]:
        """Inputs that have a projection of their own."""
        return tuple(name for name in self.inputs if self.layout == "all_projected" or name == "top_logits")

    @property
    def merged_widths(self) -> dict[InputName, int]:
        """Columns of the merge by the input that they read, in their order."""
        # The published routers' order: projected inputs come last.
        raw = [name for name in self.inputs if name not in self.projected_inputs]
        projected = self.projection_size or self.slm_hidden_size
        return {name: self.input_size(name) for name in raw} | dict.fromkeys(self.projected_inputs, projected)

    def input_size(self, name: InputName) -> int:
        """Width of one input before projection."""
        return self.num_top_logits if name == "top_logits" else self.slm_hidden_size


def divergence_probability(logits: Tensor) -> Tensor:
    """Turns a router's logits into divergence probabilities.

    Args:
        logits: f32 of any shape.

    Returns:
        f32 in [0, 1], never NaN: 1 where the logit isn't finite. Features may be so large that the router's
        arithmetic overflows; then nothing speaks for the draft, and the large model is asked.
    """
    return torch.where(torch.isfinite(logits), torch.sigmoid(logits), 1.0)


class ResidualBlock(nn.Module):
    """LayerNorm, expand, GELU, contract, with dropout after each linear layer, added to the input."""

    def __init__(self, config: RouterConfig) -> None:
        super().__init__()
        inner = config.hidden_size * config.expansion
        self.norm = nn.LayerNorm(config.hidden_size)
        self.expand = nn.Linear(config.hidden_size, inner)
        self.contract = nn.Linear(inner, config.hidden_size)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Maps f32 [batch, hidden] to f32 [batch, hidden]."""
        inner = nn.functional.gelu(self.dropout(self.expand(self.norm(x))))
        contracted: Tensor = self.dropout(self.contract(inner))
        return x + contracted


class Router(nn.Module):
    """Predicts whether the SLM's token diverges from the LLM's path.

    Source: arXiv:2505.21600 A.1.
    """

    def __init__(self, config: RouterConfig) -> None:
        """Builds an untrained router; initial weights follow torch's current seed.

        Args:
            config: Its sizes.
        """
        super().__init__()
        self.config = config
        widths = config.merged_widths
        self.projections = nn.ModuleDict(
            {name: nn.Linear(config.input_size(name), widths[name]) for name in config.projected_inputs}
        )
        self.merge = nn.Linear(sum(widths.values()), config.hidden_size)
        self.input_projection = (
            nn.Identity() if config.layout == "all_projected" else nn.Linear(config.hidden_size, config.hidden_size)
        )
        self.blocks = nn.ModuleList(ResidualBlock(config) for _ in range(config.num_blocks))
        self.norm = nn.LayerNorm(config.hidden_size)
        self.head = nn.Linear(config.hidden_size, 1)

    def forward(self, hidden_state: Tensor, top_logits: Tensor, token_embedding: Tensor) -> Tensor:
        """Computes divergence logits; their sigmoid is the divergence probability.

        Args:
            hidden_state: f32 [batch, slm_hidden].
            top_logits: f32 [batch, num_top_logits].
            token_embedding: f32 [batch, slm_hidden].

        Returns:
            f32 [batch] logits.
        """
        given = {"hidden_state": hidden_state, "top_logits": top_logits, "token_embedding": token_embedding}
        given |= {name: projection(given[name]) for name, projection in self.projections.items()}
        x = self.input_projection(self.merge(torch.cat([given[name] for name in self.config.merged_widths], dim=-1)))
        for block in self.blocks:
            x = block(x)
        logit: Tensor = self.head(self.norm(x)).squeeze(-1)
        return logit

    def first_layer(self, name: InputName) -> tuple[Tensor, Tensor]:
        """The weight [out, width of the input] and bias [out] of the layer that reads an input, as views."""
        if name in self.projections:
            projection = self.projections[name]
            return projection.get_parameter("weight"), projection.get_parameter("bias")
        widths = self.config.merged_widths
        parts = torch.split(self.merge.weight, list(widths.values()), dim=1)
        return parts[list(widths).index(name)], self.merge.bias

    @property
    def num_parameters(self) -> int:
        """How many weights a drafted token passes through."""
        return sum(parameter.numel() for parameter in self.parameters())
