"""Runs rows through the model.

Owns the forward pass and the KV pool. Not thread-safe: one pass at a time.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from services.engines.transformers.decoder_pass import DecoderPass, mask_argument, packed
from services.engines.transformers.forward_batch import ForwardBatch, Row, build_batch
from services.engines.transformers.kv_pool import SLIDING_ATTENTION, PagedCache
from services.engines.transformers.loading import decoder_of, output_head


class ModelRunner:
    """A model on a KV pool.

    Args:
        model: A causal LM in evaluation mode.
        cache: Where its KV lies.
        plain_head: The logits are the output embedding's product with the last hidden state and nothing more, so the
            decoder can be called without the model around it.
        packs: The model hands further arguments on to its attention, which is `attention.GROUPED_ATTENTION`.
        window: How many tokens a layer of sliding attention sees, the query's own included; None if there is none.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        cache: PagedCache,
        *,
        plain_head: bool,
        packs: bool,
        window: int | None = None,
    ) -> None:
        self._model = model
        self._pass = DecoderPass(decoder_of(model), cache)
        self._head = output_head(model)
        self._cache = cache
        self._plain_head = plain_head
        self._packs = packs
        self.set_window(window)
        self._dtype = model.dtype
        self._device = model.device

    def set_window(self, window: int | None) -> None:
        """Changes how many tokens layers of sliding attention see. KV and traces stay valid."""
        self._windows = [
            window if layer_type == SLIDING_ATTENTION else None for layer_type in self._cache.layer_types
        ]

    @torch.inference_mode()
    def run(self, rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
        """One forward pass.

        Returns:
            For every wanted output, row by row: the last layer's hidden state after the final norm [outputs, hidden],
            and the raw logits [outputs, vocab], both float32 on the model's device. Without a wanted output, both
            have no rows.
        """
        batch = self._build(rows)
        if not self._plain_head:
            return self._run_whole_model(batch)
        hidden = _pick(self._pass.run(batch), batch.output_index)
        return hidden.float(), self._head(hidden).float()

    @torch.inference_mode()
    def trace(self, rows: Sequence[Row]) -> None:
        """Makes later passes like this one faster, if the model allows it. Rows without padding need no mask."""
        if self._plain_head:
            self._pass.trace(self._build(rows))

    def untrace(self) -> None:
        """Goes back to running the model's own Python."""
        self._pass.untrace()

    def _build(self, rows: Sequence[Row]) -> ForwardBatch:
        return build_batch(rows, self._dtype, self._device, packs=self._packs, windows=self._windows)

    def _run_whole_model(self, batch: ForwardBatch) -> tuple[Tensor, Tensor]:
        # The model scales or caps its logits. It does so elementwise, hence also on the wanted outputs alone.
        picked: list[Tensor] = []

        def keep_wanted(_head: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor]:
            picked.append(_pick(args[0], batch.output_index))
            return (picked[0][None],)

        handle = self._head.register_forward_pre_hook(keep_wanted)
        try:
            self._cache.aim(batch.write_slots, [view.read_slots for view in batch.views])
            logits = self._model(
                input_ids=batch.input_ids,
                position_ids=batch.position_ids,
                attention_mask=mask_argument(self._cache, [view.attention_mask for view in batch.views]),
                past_key_values=self._cache,
                use_cache=True,
                **packed(batch.packed_index),
            ).logits
        finally:
            handle.remove()
        return picked[0].float(), logits[0].float()


def _pick(hidden: Tensor, output_index: Tensor | None) -> Tensor:
    flat = hidden.flatten(0, 1)
    return flat if output_index is None else flat[output_index]
