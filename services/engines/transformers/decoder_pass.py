"""The decoder as a function of tensors, traced where that is safe.

Owns the choice between the model's own Python and its TorchScript trace. For a small model most of a step's time is
Python between operations; a trace runs the same operations without it.

A trace fixes every choice that the model's Python makes on the way. The tracer warns whenever such a choice depends
on a tensor or on a shape, and a model that raises one warning runs untraced.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from services.engines.transformers.forward_batch import ForwardBatch
from services.engines.transformers.kv_pool import PagedCache

Pass = Callable[..., Tensor]

_TracerWarning: type[Warning] = torch.jit.TracerWarning  # type: ignore[attr-defined]
_log = logging.getLogger(__name__)


class DecoderPass(nn.Module):
    """A decoder on a paged cache.

    Args:
        decoder: The model without its output embedding.
        cache: Its KV.
    """

    def __init__(self, decoder: nn.Module, cache: PagedCache) -> None:
        super().__init__()
        self._decoder = decoder
        self._cache = cache
        # The pools are written to. As buffers they are variables to a trace; otherwise they would be constants.
        for index, pool in enumerate(cache.pools):
            self.register_buffer(f"pool_{index}", pool, persistent=False)
        self._traced: dict[int, Pass] = {}

    def forward(self, *inputs: Tensor) -> Tensor:
        """One pass on what `_inputs` lists. Returns hidden states [rows, query, hidden] after the final norm."""
        input_ids, position_ids, write_slots, *others = inputs
        num_views = len(self._cache.layer_types)
        read_slots, masks, packed_index = (
            others[:num_views],
            others[num_views : 2 * num_views],
            others[2 * num_views :],
        )
        self._cache.aim(write_slots, read_slots)
        hidden: Tensor = self._decoder(
            input_ids=input_ids,
            position_ids=position_ids,
            attention_mask=mask_argument(self._cache, masks or [None] * num_views),
            past_key_values=self._cache,
            use_cache=True,
            **packed(*packed_index),
        ).last_hidden_state
        return hidden

    def run(self, batch: ForwardBatch) -> Tensor:
        """One pass, traced if there is a trace for it."""
        inputs = _inputs(batch)
        return self._traced.get(len(inputs), self)(*inputs)

    def trace(self, example: ForwardBatch) -> None:
        """Traces passes like this one: plain, masked or packed. Does nothing if the model can't be traced."""
        # Recorded, not turned into errors: the tracer warns from inside C++, where an exception goes astray.
        with warnings.catch_warnings(record=True) as raised:
            warnings.simplefilter("always")
            try:
                traced = torch.jit.trace(self, _inputs(example), check_trace=False)  # type: ignore[no-untyped-call]
            except (RuntimeError, TypeError) as error:
                _log.info("the model runs untraced: %s", error)
                return
        for warning in raised:
            if issubclass(warning.category, _TracerWarning):
                _log.info("the model runs untraced: %s", warning.message)
                return
        self._traced[len(_inputs(example))] = cast(Pass, traced)

    def untrace(self) -> None:
        """Drops all traces."""
        self._traced.clear()


def packed(packed_index: Tensor | None = None) -> dict[str, Tensor]:
    """The further argument that a model passes on to its attention, if a pass is packed."""
    return {} if packed_index is None else {"packed_index": packed_index}


def mask_argument(cache: PagedCache, masks: Sequence[Tensor | None]) -> Tensor | dict[str, Tensor | None] | None:
    """The mask as a model takes it: by type of layer where there are several."""
    return masks[0] if len(masks) == 1 else dict(zip(cache.layer_types, masks, strict=True))


def _inputs(batch: ForwardBatch) -> tuple[Tensor, ...]:
    """The tensors of a pass without those that it lacks: their number tells which. A packed one has masks, always."""
    read_slots = [view.read_slots for view in batch.views]
    masks = [view.attention_mask for view in batch.views if view.attention_mask is not None]
    further = [] if batch.packed_index is None else [batch.packed_index]
    return (batch.input_ids, batch.position_ids, batch.write_slots, *read_slots, *masks, *further)
