"""Stage 2: one SLM pass over prompt and LLM response finds the differing tokens and keeps the router's features.

Source: arXiv:2505.21600 §4.1 (the SLM prefills the LLM's response; only differing tokens go on to continuation).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from labeler_jobs.models import length_batches, output_logits
from router_service.features import select_top_logits


@dataclass(frozen=True)
class PrefillResult:
    """What the SLM makes of one response, position by position.

    Attributes:
        slm_token_ids: i64 [response], the SLM's greedy prediction given everything before the position.
        different: bool [response], where that prediction is not the response's token.
        hidden_state: f32 [response, hidden], last layer after the final norm, at the position that predicts.
        top_logits: f32 [response, top], the largest raw logits in falling order.
    """

    slm_token_ids: Tensor
    different: Tensor
    hidden_state: Tensor
    top_logits: Tensor


def prefill_responses(
    slm: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    num_top_logits: int = 100,
    batch_size: int = 64,
) -> list[PrefillResult]:
    """Run the SLM over prompts and responses.

    Rows are padded on the right: under a causal mask the padding cannot reach the positions that are read.

    Args:
        slm: The small model, in float32.
        prompts: Prompt token ids.
        responses: LLM response token ids, EOS included.
        num_top_logits: How many logits the router reads.
        batch_size: Rows of one pass.

    Returns:
        One result per response, in order.
    """
    lengths = [len(prompt) + len(response) for prompt, response in zip(prompts, responses, strict=True)]
    results: dict[int, PrefillResult] = {}
    for rows in length_batches(lengths, batch_size):
        hidden_state = _last_hidden_states(slm, [[*prompts[row], *responses[row]] for row in rows])
        for at, row in enumerate(rows):
            first = len(prompts[row]) - 1
            kept = hidden_state[at, first : first + len(responses[row])].clone()
            results[row] = _read_positions(slm, kept, responses[row], num_top_logits)
    return [results[row] for row in range(len(prompts))]


@torch.inference_mode()
def _last_hidden_states(slm: PreTrainedModel, sequences: list[list[int]]) -> Tensor:
    width = max(map(len, sequences))
    token_ids = torch.zeros((len(sequences), width), dtype=torch.long)
    for row, sequence in enumerate(sequences):
        token_ids[row, : len(sequence)] = torch.tensor(sequence)
    hidden_state: Tensor = slm.base_model(input_ids=token_ids, use_cache=False).last_hidden_state
    return hidden_state


@torch.inference_mode()
def _read_positions(
    slm: PreTrainedModel, hidden_state: Tensor, response: Sequence[int], num_top_logits: int
) -> PrefillResult:
    logits = output_logits(slm, hidden_state).float()
    predicted = logits.argmax(dim=-1)
    return PrefillResult(
        slm_token_ids=predicted,
        different=predicted != torch.tensor(response),
        hidden_state=hidden_state.float(),
        top_logits=select_top_logits(logits, num_top_logits),
    )
