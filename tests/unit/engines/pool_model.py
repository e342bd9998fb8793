"""A model for the transformers engines that reads its prefix off the KV pool.

Owns a pool that holds, slot by slot, the token that was written there. What the model says depends on what it finds
in the slots that it is shown, so that a block in the wrong hands, or read before it was written, shows in the tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from services.engines.base import EngineOptions, ModelInfo
from services.engines.fakes import fake_next_token
from services.engines.transformers.block_manager import BLOCK_LEN
from services.engines.transformers.forward_batch import Row
from services.engines.transformers.llm_engine import TransformersLlmEngine
from services.engines.transformers.model_runner import ModelRunner
from services.engines.transformers.slm_engine import TransformersSlmEngine

VOCAB_SIZE = 128
NOTHING = -1


class PoolModel(ModelRunner):
    """Writes `fake_next_token("m", prefix)` after each prefix."""

    def __init__(self, num_blocks: int) -> None:
        self._pool = np.full((num_blocks + 1) * BLOCK_LEN, NOTHING)

    def run(self, rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
        # All rows write before any reads, as in a pass.
        for row in rows:
            self._pool[row.slots[-len(row.token_ids) :]] = row.token_ids
        outputs: list[int] = []
        for row in rows:
            found = self._pool[row.slots].tolist()
            assert NOTHING not in found
            start = len(found) - len(row.token_ids) + 1
            outputs += [fake_next_token("m", found[: start + offset]) for offset in row.output_offsets]
        logits = torch.zeros(len(outputs), VOCAB_SIZE)
        logits[torch.arange(len(outputs)), torch.tensor(outputs, dtype=torch.int64)] = 1.0
        return torch.zeros(len(outputs), 4), logits


def _info(options: EngineOptions) -> ModelInfo:
    return ModelInfo("m", "", VOCAB_SIZE, 4, "", 1, options.kv_cache_tokens // BLOCK_LEN * BLOCK_LEN, (), "test")


class PoolSlmEngine(TransformersSlmEngine):
    """The real engine around the pool model."""

    def _load(self) -> tuple[ModelRunner, ModelInfo]:
        return PoolModel(self._blocks.num_blocks), _info(self._options)


class PoolLlmEngine(TransformersLlmEngine):
    """The real engine around the pool model."""

    def _load(self) -> tuple[ModelRunner, ModelInfo]:
        return PoolModel(self._blocks.num_blocks), _info(self._options)
