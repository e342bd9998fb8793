"""Finds out how a model wants to be run, and proves on a few tokens that it runs right that way.

Owns the trial passes at start-up. They replace a list of supported architectures: what gives the same logits with a
paged cache as without one is supported. A sliding window is narrowed meanwhile, so that a few tokens reach beyond it.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache, PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from services.engines.base import ModelLoadError
from services.engines.transformers.attention import GROUPED_ATTENTION
from services.engines.transformers.block_manager import BLOCK_LEN
from services.engines.transformers.forward_batch import Row
from services.engines.transformers.kv_pool import FULL_ATTENTION, SLIDING_ATTENTION, LayerShape, PagedCache
from services.engines.transformers.loading import decoder_of, output_head
from services.engines.transformers.model_runner import ModelRunner

_log = logging.getLogger(__name__)
_TRIAL_LEN = 2 * BLOCK_LEN - 3
_TRIAL_WINDOW = 5
_LAYER_TYPES = {DynamicLayer: FULL_ATTENTION, DynamicSlidingWindowLayer: SLIDING_ATTENTION}
_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.02}


@torch.inference_mode()
def make_runner(model: PreTrainedModel, num_blocks: int) -> ModelRunner:
    """Allocates the KV pool and returns a runner that has passed its trial; that is the warm-up pass, too.

    Args:
        model: A causal LM on its device, in evaluation mode.
        num_blocks: Blocks of KV, without the padding block; at least two.

    Raises:
        ModelLoadError: The model's cache or inputs aren't the standard ones, the pool doesn't fit into memory, or the
            model gives other logits on a paged cache.
    """
    name = type(model).__name__
    decoder = decoder_of(model)
    parameters = inspect.signature(decoder.forward).parameters
    for parameter in ("input_ids", "position_ids", "attention_mask", "past_key_values"):
        if parameter not in parameters:
            raise ModelLoadError(f"architectures: {name} takes no {parameter}")
    window = _sliding_window(decoder.config, name)
    if window is None:
        return _proved_runner(model, num_blocks, None)
    trial_window = min(window, _TRIAL_WINDOW)
    with _narrowed(decoder.config, trial_window):
        runner = _proved_runner(model, num_blocks, trial_window)
    runner.set_window(window)
    return runner


def _proved_runner(model: PreTrainedModel, num_blocks: int, window: int | None) -> ModelRunner:
    name = type(model).__name__
    decoder, head = decoder_of(model), output_head(model)
    generator = np.random.default_rng(0)
    token_ids = generator.integers(0, head.out_features, _TRIAL_LEN).tolist()
    trial = torch.tensor([token_ids], device=model.device)

    plain_cache = DynamicCache(config=decoder.config)
    hidden: list[Tensor] = []
    handle = head.register_forward_pre_hook(lambda _head, args: hidden.append(args[0]))
    logits = model(input_ids=trial, past_key_values=plain_cache, use_cache=True).logits[0].float()
    handle.remove()
    shapes = _layer_shapes(plain_cache, name)

    head_logits = head(hidden[0])[0].float()
    decoder_hidden = decoder(input_ids=trial, use_cache=False).last_hidden_state
    plain_head = torch.equal(head_logits, logits) and decoder_hidden.shape == hidden[0].shape
    plain_head = plain_head and torch.allclose(
        decoder_hidden.float(), hidden[0].float(), atol=_TOLERANCE[model.dtype]
    )

    if model.config._attn_implementation == "sdpa":
        model.set_attn_implementation(GROUPED_ATTENTION)
    try:
        cache = PagedCache(shapes, (num_blocks + 1) * BLOCK_LEN, dtype=model.dtype, device=model.device)
    except (RuntimeError, torch.OutOfMemoryError) as error:
        raise ModelLoadError(f"kv_cache_tokens: {num_blocks * BLOCK_LEN} tokens of KV don't fit: {error}") from error
    tolerance = _TOLERANCE[model.dtype]
    if model.config._attn_implementation == GROUPED_ATTENTION:
        runner = ModelRunner(model, cache, plain_head=plain_head, packs=True, window=window)
        try:
            if _least_difference(runner, token_ids, logits, tolerance) < tolerance:
                return runner
        except (RuntimeError, TypeError) as error:
            _log.info(
                "rows of different lengths are padded, since the model hands nothing to its attention: %s", error
            )
    runner = ModelRunner(model, cache, plain_head=plain_head, packs=False, window=window)
    difference = _least_difference(runner, token_ids, logits, tolerance)
    if not difference < tolerance:
        raise ModelLoadError(f"architectures: {name} gives other logits on a paged cache, by {difference:.2g}")
    return runner


def _sliding_window(config: PreTrainedConfig, name: str) -> int | None:
    layers = DynamicCache(config=config).layers
    windows = {layer.sliding_window for layer in layers if isinstance(layer, DynamicSlidingWindowLayer)}
    if len(windows) > 1:
        raise ModelLoadError(f"architectures: layers of {name} differ in their windows: {sorted(windows)}")
    return windows.pop() if windows else None


@contextmanager
def _narrowed(config: PreTrainedConfig, window: int) -> Iterator[None]:
    kept, config.sliding_window = config.sliding_window, window
    try:
        yield
    finally:
        config.sliding_window = kept


def _least_difference(runner: ModelRunner, token_ids: list[int], logits: Tensor, tolerance: float) -> float:
    """From the plain logits, traced where that is within the tolerance, else untraced."""
    if logits.device.type == "cpu":
        _trace(runner, token_ids)
        difference = _difference(runner, token_ids, logits)
        if difference < tolerance:
            return difference
        runner.untrace()
    return _difference(runner, token_ids, logits)


def _trace(runner: ModelRunner, token_ids: list[int]) -> None:
    slots = _trial_slots()
    runner.trace([Row(token_ids[:1], slots[:3], [0])])
    runner.trace([Row(token_ids[:2], slots[:5], [0]), Row(token_ids[:2], slots[:3], [0])])
    runner.trace([Row(token_ids[:2], slots[:5], [0]), Row(token_ids[:1], slots[:3], [0])])


def _difference(runner: ModelRunner, token_ids: list[int], logits: Tensor) -> float:
    outputs = _run_in_pieces(runner, token_ids)
    return float((outputs - logits).abs().max() / logits.abs().max().clamp(min=1.0))


def _layer_shapes(cache: DynamicCache, name: str) -> list[LayerShape]:
    shapes = []
    for index, layer in enumerate(cache.layers):
        # Others compress, or hold states that can't be cropped.
        layer_type = _LAYER_TYPES.get(type(layer))
        if layer_type is None or not isinstance(layer, DynamicLayer) or layer.keys is None or layer.values is None:
            raise ModelLoadError(f"architectures: layer {index} of {name} caches with {type(layer).__name__}")
        shapes.append(LayerShape(layer.keys.shape[1], layer.keys.shape[3], layer.values.shape[3], layer_type))
    return shapes


def _trial_slots() -> NDArray[np.int64]:
    return np.concatenate((np.arange(2 * BLOCK_LEN, 3 * BLOCK_LEN), np.arange(BLOCK_LEN, 2 * BLOCK_LEN)))


def _run_in_pieces(runner: ModelRunner, token_ids: list[int]) -> Tensor:
    """A chunk, then a second chunk beside a shorter row that pads, then single tokens. Blocks in reverse order."""
    slots = _trial_slots()

    def row(start: int, end: int) -> Row:
        return Row(token_ids[start:end], slots[:end], range(end - start))

    outputs = [runner.run([row(0, 7)])[1]]
    outputs.append(runner.run([row(7, 20), Row(token_ids[:1], slots[-1:], [])])[1])
    outputs.extend(runner.run([row(end - 1, end)])[1] for end in range(21, len(token_ids) + 1))
    return torch.cat(outputs)
