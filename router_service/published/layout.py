"""What a published router's file means: its fields, its tensors' names and shapes, and the router that they make.

Owns the published layout and everything in it that Trivium's router doesn't have, which is refused by name. The
weights are taken as they are, so a score is the published network's.

Source: arXiv:2505.21600 A.1; github.com/thu-nics/R2R, r2r/models/router.py.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from router_service.model import Router, RouterConfig
from router_service.published.reading import PublishedFile, PublishedRouterError
from services.engines.base import TOP_LOGITS

MODEL_TYPE = "HiddenStatesTokenLMHeadLogitsClassifier"
EMBEDDING = "token_embeddings.weight"
DEFAULT_THRESHOLD = 0.5
"""What the authors' own server routes at, unless it is told."""
_INPUT_TYPES = frozenset({"hidden_states", "token", "logits"})
_ARGUMENTS = frozenset(
    {"hidden_states_size", "logits_size", "hidden_dims", "expansion_factor", "dropout_rate", "pretrained_model_name",
     "use_position_embedding", "max_position_embeddings", "normalize_input", "freeze_lm_head", "dtype"}
)  # fmt: skip
_LAYERS = {
    "logits_projection": "projections.top_logits",
    "combined_projection": "merge",
    "backbone.input_projection": "input_projection",
    "backbone.output_layer.0": "norm",
    "backbone.output_layer.1": "head",
}
_BLOCK = re.compile(r"backbone\.blocks\.(\d{1,3})\.")
_BLOCK_LAYERS = {"layer_norm": "norm", "mlp.0": "expand", "mlp.3": "contract"}


@dataclass(frozen=True)
class PublishedRouter:
    """A published router.

    Attributes:
        router: In evaluation mode, float32.
        threshold: The file's, or `DEFAULT_THRESHOLD` where it names none.
        slm_embedding: [vocab, slm_hidden] in the file's own type, where the file holds it.
    """

    router: Router
    threshold: float
    slm_embedding: Tensor | None


def parse_published(file: PublishedFile) -> PublishedRouter:
    """Makes the router of a file.

    Args:
        file: As it was read.

    Raises:
        PublishedRouterError: It is of another kind, incomplete, or reads something that Trivium's router doesn't; the
            message names the file and the field or tensor.
    """
    try:
        threshold = _threshold(file.fields)
        arguments = _arguments(file.fields)
        tensors = dict(file.tensors)
        embedding = tensors.pop(EMBEDDING, None)
        config = _config(tensors, arguments)
        return PublishedRouter(_router(config, tensors), threshold, embedding)
    except _Wrong as error:
        raise PublishedRouterError(f"{file.path}: {error}") from error


class _Wrong(ValueError):
    """A field or tensor; the message names it, and the caller the file."""


def _threshold(fields: Mapping[str, Any]) -> float:
    if (model_type := fields.get("model_type")) != MODEL_TYPE:
        raise _Wrong(f"model_type: is {model_type!r}; {MODEL_TYPE!r} alone can be imported")
    common = _section(fields, "common_args")
    inputs = common.get("input_type")
    if inputs is not None and (not isinstance(inputs, list) or set(map(str, inputs)) != _INPUT_TYPES):
        raise _Wrong(f"common_args.input_type: is {inputs!r}, expected {sorted(_INPUT_TYPES)}")
    threshold = common.get("threshold")
    if threshold is None:
        return DEFAULT_THRESHOLD
    # Written so that NaN fails it.
    if isinstance(threshold, bool) or not isinstance(threshold, (int, float)) or not 0.0 <= threshold <= 1.0:
        raise _Wrong(f"common_args.threshold: must be a number in [0, 1], not {threshold!r}")
    return float(threshold)


def _arguments(fields: Mapping[str, Any]) -> dict[str, Any]:
    arguments = _section(fields, "init_args")
    for name in ("normalize_input", "use_position_embedding"):
        if arguments.get(name, False) is not False:
            raise _Wrong(f"init_args.{name}: is {arguments[name]!r}; routers with it can't be imported")
    if unknown := sorted(arguments.keys() - _ARGUMENTS):
        raise _Wrong(f"init_args.{unknown[0]}: is unknown, and may change what the router computes")
    return arguments


def _section(fields: Mapping[str, Any], name: str) -> dict[str, Any]:
    section = fields.get(name)
    if not isinstance(section, dict):
        raise _Wrong(f"{name}: is missing, or no dict")
    return section


def _config(tensors: Mapping[str, Tensor], arguments: Mapping[str, Any]) -> RouterConfig:
    """Sizes by the tensors' shapes; what the file says of them must not contradict, save the SLM's width."""
    # The SLM's width is stated wrongly by some of the authors' own configurations.
    hidden_size, merged = _matrix(tensors, "combined_projection.weight")
    slm_hidden_size, num_top_logits = _matrix(tensors, "logits_projection.weight")
    inner, _ = _matrix(tensors, "backbone.blocks.0.mlp.0.weight")
    if num_top_logits != TOP_LOGITS:
        raise _Wrong(f"logits_projection.weight: reads {num_top_logits} logits; SLM services send {TOP_LOGITS}")
    if merged != 3 * slm_hidden_size:
        raise _Wrong(
            f"combined_projection.weight: has shape {(hidden_size, merged)}; three inputs of {slm_hidden_size}, the "
            f"rows of logits_projection.weight, are {3 * slm_hidden_size} columns"
        )
    num_blocks = len({match[1] for name in tensors if (match := _BLOCK.match(name))})
    widths = arguments.get("hidden_dims", [hidden_size] * num_blocks)
    if widths != [hidden_size] * num_blocks:
        raise _Wrong(f"init_args.hidden_dims: is {widths!r}; the tensors make {num_blocks} blocks of {hidden_size}")
    dropout = arguments.get("dropout_rate", 0.1)
    if isinstance(dropout, bool) or not isinstance(dropout, (int, float)):
        raise _Wrong(f"init_args.dropout_rate: must be a number, not {dropout!r}")
    try:
        return RouterConfig(
            slm_hidden_size,
            num_top_logits,
            hidden_size=hidden_size,
            num_blocks=num_blocks,
            expansion=inner // hidden_size,
            dropout=float(dropout),
            layout="logits_projected",
        )
    except ValueError as error:
        raise _Wrong(f"state_dict or init_args: {error}") from error


def _matrix(tensors: Mapping[str, Tensor], name: str) -> tuple[int, int]:
    if name not in tensors:
        raise _Wrong(f"{name}: is missing")
    shape = tensors[name].shape
    if len(shape) != 2 or 0 in shape:
        raise _Wrong(f"{name}: has shape {tuple(shape)}, not that of a linear layer")
    return shape[0], shape[1]


def _router(config: RouterConfig, tensors: Mapping[str, Tensor]) -> Router:
    with torch.device("meta"):
        router = Router(config)
    wanted = router.state_dict()
    names = _names(config)
    for name in tensors:
        if name not in names:
            raise _Wrong(f"{name}: is a tensor that Trivium's router doesn't have")
    weights = {}
    for name, own in names.items():
        if name not in tensors:
            raise _Wrong(f"{name}: is missing")
        tensor, shape = tensors[name], tuple(wanted[own].shape)
        if tuple(tensor.shape) != shape:
            raise _Wrong(f"{name}: has shape {tuple(tensor.shape)}, expected {shape}")
        weights[own] = tensor.float()
        if not bool(torch.isfinite(weights[own]).all()):
            raise _Wrong(f"{name}: holds values that are not finite")
    router.load_state_dict(weights, assign=True)
    return router.eval()


def _names(config: RouterConfig) -> dict[str, str]:
    """Trivium's name of every published tensor."""
    layers = dict(_LAYERS)
    for block in range(config.num_blocks):
        layers |= {f"backbone.blocks.{block}.{name}": f"blocks.{block}.{own}" for name, own in _BLOCK_LAYERS.items()}
    return {f"{name}.{part}": f"{own}.{part}" for name, own in layers.items() for part in ("weight", "bias")}
