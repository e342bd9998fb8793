"""Stage 1: the LLM's greedy responses, in batches.

Source: arXiv:2505.21600 §4.1 and A.2 (temperature 0; only responses that reach EOS are kept).
"""

from collections.abc import Sequence

from transformers import PreTrainedModel

from labeler_jobs.models import generate_ids, length_batches


def generate_greedy(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], max_new_tokens: int, batch_size: int = 64
) -> list[list[int]]:
    """Answer prompts greedily.

    Args:
        model: A causal language model whose generation config names its pad and EOS ids.
        prompts: Prompt token ids, one sequence per prompt.
        max_new_tokens: Limit of every response, in tokens.
        batch_size: Prompts that are decoded together; prompts of equal length share a batch.

    Returns:
        For each prompt, in order, the response's token ids with the EOS at the end when it was reached.
    """
    responses: list[list[int]] = [[] for _ in prompts]
    for rows in length_batches([len(prompt) for prompt in prompts], batch_size):
        answers = generate_ids(model, [prompts[row] for row in rows], max_new_tokens)
        for row, answer in zip(rows, answers, strict=True):
            responses[row] = _cut_after(answer, model.generation_config.eos_token_id)
    return responses


def is_complete(response: Sequence[int], eos_token_id: int) -> bool:
    """Tell whether a response reached EOS within its limit."""
    return bool(response) and response[-1] == eos_token_id


def _cut_after(token_ids: list[int], eos_token_id: int) -> list[int]:
    if eos_token_id in token_ids:
        return token_ids[: token_ids.index(eos_token_id) + 1]
    return token_ids
