"""Makes a model cost more without changing a bit of what it computes.

Layers are put behind the model's own whose output projections are zero: they attend and multiply at full cost and add
nothing to the residual stream. With the reference pair, real text and real routing rates so meet the ratio of costs
that a small and a large model have elsewhere (1.5B : 32B is 1 : 21).
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from transformers import PreTrainedModel


def inflate(model: PreTrainedModel, num_extra_layers: int) -> PreTrainedModel:
    """Copies a model and appends layers that do nothing at full cost.

    Args:
        model: A causal language model of the Llama or Qwen family: decoder layers in `model.layers`, with `self_attn`
            and `mlp`, whose outputs are `o_proj` and `down_proj`.
        num_extra_layers: Layers to append; copies of the model's own, in turn.

    Returns:
        The inflated model, in evaluation mode. Its outputs equal the model's bit for bit: x + 0 is x.
    """
    if num_extra_layers < 0:
        raise ValueError(f"num_extra_layers is {num_extra_layers}; layers can be added only")
    inflated: Any = copy.deepcopy(model)
    layers = inflated.base_model.layers
    num_layers = len(layers)
    for number in range(num_extra_layers):
        layer = copy.deepcopy(layers[number % num_layers])
        # The KV cache goes by this number.
        layer.self_attn.layer_idx = num_layers + number
        for projection in (layer.self_attn.o_proj, layer.mlp.down_proj):
            torch.nn.init.zeros_(projection.weight)
            if projection.bias is not None:
                torch.nn.init.zeros_(projection.bias)
        layers.append(layer)
    inflated.config.num_hidden_layers = len(layers)
    if layer_types := getattr(inflated.config, "layer_types", None):
        inflated.config.layer_types = [layer_types[number % num_layers] for number in range(len(layers))]
    result: PreTrainedModel = inflated.train(False)
    return result


def layers_for_ratio(llm_step_s: float, slm_step_s: float, layer_step_s: float, ratio: float) -> int:
    """Layers to append so that a decoding step of the LLM costs `ratio` times one of the SLM.

    Args:
        llm_step_s: Measured time of a step of the LLM as it is.
        slm_step_s: Of the SLM.
        layer_step_s: Of one of the LLM's layers.
        ratio: Wanted.

    Returns:
        At least 0.
    """
    return max(0, round((ratio * slm_step_s - llm_step_s) / layer_step_s))
