"""The router's inputs as every engine must produce them.

- `top_logits`: the largest raw logits of the SLM at the position, in falling order, no softmax. A vocabulary that is
  smaller than the number asked for is padded on the right with its own smallest logit: finite, the same everywhere.
- `hidden_state`: the SLM's last layer at the same position, after the final norm: what the logits are computed from.
- `token_embedding`: the row of the SLM's input embedding for the token it predicts.

Source: arXiv:2505.21600 A.1.
"""

import torch
from torch import Tensor

from router_service.model import RouterConfig


def select_top_logits(logits: Tensor, num_top_logits: int) -> Tensor:
    """Select the largest logits.

    Args:
        logits: f32 [..., vocab], raw.
        num_top_logits: How many the router reads.

    Returns:
        f32 [..., num_top_logits] in falling order, padded with the smallest logit when the vocabulary is smaller.
    """
    kept = min(num_top_logits, logits.size(-1))
    top = torch.topk(logits, kept, dim=-1, sorted=True).values
    if kept == num_top_logits:
        return top
    return torch.cat([top, top[..., -1:].expand(*top.shape[:-1], num_top_logits - kept)], dim=-1)


def check_features(config: RouterConfig, hidden_state: Tensor, top_logits: Tensor, token_embedding: Tensor) -> None:
    """Hold features against the router that is to read them.

    Args:
        config: The router's sizes.
        hidden_state: f32 [batch, slm_hidden].
        top_logits: f32 [batch, num_top_logits].
        token_embedding: f32 [batch, slm_hidden].

    Raises:
        ValueError: If a shape or dtype is not the router's; the message names the input.
    """
    widths = {
        "hidden_state": (hidden_state, config.slm_hidden_size),
        "top_logits": (top_logits, config.num_top_logits),
        "token_embedding": (token_embedding, config.slm_hidden_size),
    }
    for name, (value, width) in widths.items():
        if value.shape != (hidden_state.size(0), width):
            raise ValueError(f"{name} has shape {tuple(value.shape)}, the router reads [batch, {width}]")
        if value.dtype != torch.float32:
            raise ValueError(f"{name} is {value.dtype}, the router reads float32")
