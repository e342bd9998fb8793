"""The router's inputs as every engine must produce them.

- `top_logits`: the largest raw logits of the SLM at the position, in falling order, no softmax. A vocabulary that is
  smaller than the number asked for is padded on the right with its own smallest logit: finite, the same everywhere.
- `hidden_state`: the SLM's last layer at the same position, after the final norm: what the logits are computed from.
- `token_embedding`: the row of the SLM's input embedding for the token it predicts, as it stands in the weights:
  where the model scales what it reads, as Gemma does, it is the row before that.

Source: arXiv:2505.21600 A.1.
"""

import torch
from torch import Tensor


def select_top_logits(logits: Tensor, num_top_logits: int) -> Tensor:
    """Selects the largest logits.

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
