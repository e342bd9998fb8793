"""Decodes many questions at once with one model, on the engine that serves it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from evaluation.decoding.response import RoutedResponse
from evaluation.decoding.room import BATCH_SIZE, room_for
from labeler_jobs.models.writer import GreedyWriter
from services.engines.factory import create_slm_engine


def decode_alone(
    model: Path,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    from_llm: bool = False,
    batch_size: int = BATCH_SIZE,
) -> list[RoutedResponse]:
    """Decodes prompts greedily with one model.

    Args:
        model: Folder of a causal language model.
        prompts: Prompt token ids.
        max_new_tokens: Limit of a response, in tokens.
        from_llm: What the responses say about who wrote them.
        batch_size: Prompts that are decoded together.

    Returns:
        One response per prompt, in order.
    """
    engine = create_slm_engine("transformers", room_for(model, prompts, max_new_tokens, batch_size))
    with GreedyWriter(engine, batch_size) as writer:
        written = writer.write(prompts, max_new_tokens)
    return [RoutedResponse(token_ids, [from_llm] * len(token_ids)) for token_ids in written]
