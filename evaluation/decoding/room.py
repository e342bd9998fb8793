"""How engines are set up to decode many questions at once: with room for all of a batch, so that nothing waits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from services.engines.base import EngineOptions

BATCH_SIZE = 128
_SPARE_LEN = 64
"""KV is handed out in blocks, so a sequence takes a little more than its tokens."""


def room_for(
    model: Path, prompts: Sequence[Sequence[int]], max_new_tokens: int, batch_size: int = BATCH_SIZE
) -> EngineOptions:
    """Options of an engine in float32 on the CPU, with as many threads as torch has.

    Args:
        model: Folder of the model.
        prompts: Prompt token ids.
        max_new_tokens: Limit of a response, in tokens.
        batch_size: Prompts that are decoded together.
    """
    longest = max(map(len, prompts), default=0)
    return EngineOptions(
        model=str(model),
        max_batch_size=batch_size,
        kv_cache_tokens=batch_size * (longest + max_new_tokens + _SPARE_LEN),
        num_threads=0,
    )
