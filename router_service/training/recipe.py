"""Router recipes: what a router reads, what it predicts, how large it is and how it is trained, as strict YAML.

Owns the schema and finding a recipe by name or file.

The recipe `r2r-56m` trains the network that the authors of R2R publish, which `router_service.published` imports.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from router_service.model import ALL_INPUTS, InputName, Layout, Objective, RouterConfig
from services.common.files.yaml_file import closest, read_yaml
from services.engines.base import TOP_LOGITS

_DIRECTORY = Path(__file__).resolve().parents[1] / "configs"
_Positive = Annotated[int, Field(ge=1)]
_Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]


class RecipeError(ValueError):
    """A router recipe can't be used. The message names the file and the key."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RouterSizes(_Section):
    """How large a router is; the defaults are the paper's sizes.

    Attributes:
        layout: How the inputs enter: "logits_projected" is the paper's, "all_projected" what is meant by default.
        num_top_logits: How many of the SLM's largest logits are read.
        projection_size: Width that an input is projected to; None: the SLM's hidden size.
        hidden_size: Width of the residual backbone.
        num_blocks: Residual blocks.
        expansion: How much wider a block is inside.
        dropout: Dropout after each linear layer of a block, while training.

    Source: arXiv:2505.21600 A.1.
    """

    layout: Layout = "all_projected"
    num_top_logits: _Positive = TOP_LOGITS
    projection_size: _Positive | None = None
    hidden_size: _Positive = 1024
    num_blocks: _Positive = 6
    expansion: _Positive = 4
    dropout: _Fraction = 0.1


class RouterTraining(_Section):
    """How a router is trained.

    Attributes:
        learning_rate: AdamW's learning rate after the warm-up.
        betas: AdamW's betas.
        weight_decay: AdamW's decoupled weight decay.
        batch_size: Tokens in a step.
        max_epochs: Limit on passes over the data.
        patience: Epochs without a better validation loss before training stops.
        warmup_steps: Steps over which the learning rate rises from 0.
        schedule: What the learning rate does after the warm-up: it stays "constant", or falls to 0 over `max_epochs`
            like a half "cosine".
        max_grad_norm: Gradients are scaled down to this norm.
        mixed_precision: Multiply in bfloat16 on a GPU. On a CPU all is float32.

    Source: arXiv:2505.21600 A.3. deviation: warm-up, clipping, the cosine schedule and mixed precision, which
    the paper doesn't use.
    """

    learning_rate: Annotated[float, Field(gt=0.0)] = 5e-5
    betas: tuple[_Fraction, _Fraction] = (0.9, 0.999)
    weight_decay: Annotated[float, Field(ge=0.0)] = 5e-4
    batch_size: _Positive = 1024
    max_epochs: _Positive = 50
    patience: _Positive = 10
    warmup_steps: Annotated[int, Field(ge=0)] = 100
    schedule: Literal["constant", "cosine"] = "constant"
    max_grad_norm: Annotated[float, Field(gt=0.0)] = 1.0
    mixed_precision: bool = True


class RouterRecipe(_Section):
    """Everything that decides a router but its data, its seed and the pair that it is for.

    Attributes:
        name: Names the recipe.
        description: What it is for.
        objective: Which tokens are to be routed: "divergent" ones, or all at which the models are "different".
        inputs: What the router reads, in the order of `ALL_INPUTS` however it was written.
        sizes: How large it is.
        training: How it is trained.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.+-]*$")]
    description: Annotated[str, Field(min_length=1)]
    objective: Objective = "divergent"
    inputs: tuple[InputName, ...] = ALL_INPUTS
    sizes: RouterSizes = RouterSizes()
    training: RouterTraining = RouterTraining()

    def router_config(self, slm_hidden_size: int) -> RouterConfig:
        """The router's sizes for an SLM of this width."""
        return RouterConfig(slm_hidden_size, inputs=self.inputs, **self.sizes.model_dump())

    @field_validator("inputs")
    @classmethod
    def _in_one_order(cls, inputs: tuple[InputName, ...]) -> tuple[InputName, ...]:
        if not inputs or len(set(inputs)) < len(inputs):
            raise ValueError(f"expected some of {', '.join(ALL_INPUTS)}, each at most once")
        return tuple(name for name in ALL_INPUTS if name in inputs)


def shipped_recipes() -> dict[str, Path]:
    """The file of every recipe that ships with Trivium, by its name."""
    return {path.stem: path for path in sorted(_DIRECTORY.glob("*.yaml"))}


def load_router_config(name_or_path: str) -> RouterRecipe:
    """Reads a recipe.

    Args:
        name_or_path: Name of a shipped recipe, or path of a YAML file.

    Raises:
        RecipeError: There is none, or it has a wrong key or value; the message names the file, the key and the one
            that comes closest.
    """
    shipped = shipped_recipes()
    path = shipped.get(name_or_path, Path(name_or_path))
    if not path.is_file():
        hint = closest(name_or_path, list(shipped), "recipes")
        raise RecipeError(f"no router recipe {name_or_path!r}, nor a file of this name: {hint}")
    return read_yaml(path, RouterRecipe, RecipeError)
