"""Stage 0: the LLM's greedy responses.

Source: arXiv:2505.21600 §4.1 and A.2 (temperature 0, a length limit; only responses that end by themselves are used).
"""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa
from transformers import PreTrainedTokenizerFast

from labeler_jobs.models.huggingface import render_prompt
from labeler_jobs.models.writer import GreedyWriter
from labeler_jobs.stages.schemas import RESPONSES


def write_responses(
    queries: pa.Table,
    tokenizer: PreTrainedTokenizerFast,
    writer: GreedyWriter,
    context_len: int,
    max_new_tokens: int,
    on_tokens: Callable[[int], None],
) -> pa.RecordBatch:
    """Answers queries greedily, thoughts included.

    A query whose prompt fills the context is kept without a response, as an unfinished one: the others go on, and the
    statistics count it.

    Args:
        queries: Rows of `schemas.QUERIES`.
        tokenizer: The pair's tokenizer, with a chat template.
        writer: Writes with the LLM.
        context_len: Longest sequence, prompt included.
        max_new_tokens: Limit of a response.
        on_tokens: Told how many tokens a step wrote.

    Returns:
        Rows of `schemas.RESPONSES`, in order.

    Raises:
        ValueError: The tokenizer has no chat template.
    """
    prompts = [render_prompt(tokenizer, query) for query in queries["query"].to_pylist()]
    fitting = [row for row, prompt in enumerate(prompts) if len(prompt) < context_len]
    written = writer.write([prompts[row] for row in fitting], max_new_tokens, on_tokens=on_tokens)
    responses: list[list[int]] = [[] for _ in prompts]
    for row, response in zip(fitting, written, strict=True):
        responses[row] = response
    eos = frozenset(writer.info.eos_token_ids)
    return pa.RecordBatch.from_pydict(
        {
            "query_id": queries["query_id"].combine_chunks(),
            "domain": queries["domain"].combine_chunks(),
            "prompt_token_ids": prompts,
            "response_token_ids": responses,
            "finished": [bool(response) and response[-1] in eos for response in responses],
        },
        schema=RESPONSES,
    )
