"""Loads a causal LM from safetensors, and says what is wrong with it if that fails.

Owns the checks of files, weights and configuration. Whether the model runs right on a paged cache is `probe`'s
business.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.utils.logging import disable_progress_bar

from services.common.text.tokenizer import load_tokenizer, tokenizer_sha256
from services.engines.base import EngineOptions, ModelInfo, ModelLoadError
from services.engines.transformers.kv_pool import FULL_ATTENTION, SLIDING_ATTENTION

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_model(options: EngineOptions) -> PreTrainedModel:
    """Loads the weights onto the device, in evaluation mode.

    Raises:
        ModelLoadError: A file is missing or damaged, the configuration is unknown or doesn't fit the weights, or
            quantized weights need a package that isn't installed.
    """
    if options.dtype not in DTYPES:
        raise ModelLoadError(f"dtype: {options.dtype!r} is not one of {', '.join(DTYPES)}")
    _check_files(options.model)
    config = _load_config(options)
    # A service writes logs, not bars.
    disable_progress_bar()  # type: ignore[no-untyped-call]
    auto_class = _auto_class(config, options.model)
    model: PreTrainedModel
    report: dict[str, Any]
    try:
        model, report = auto_class.from_pretrained(
            options.model,
            revision=options.revision or None,
            config=config,
            attn_implementation=_attention(config),
            dtype=DTYPES[options.dtype],
            use_safetensors=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, KeyError, ImportError, SafetensorError) as error:
        raise ModelLoadError(f"model {options.model!r}: the weights can't be loaded: {error}") from error
    for problem in ("missing_keys", "mismatched_keys", "error_msgs"):
        if report.get(problem):
            found = ", ".join(sorted(map(str, report[problem]))[:3])
            raise ModelLoadError(f"model {options.model!r}: config.json doesn't fit the weights: {problem}: {found}")
    try:
        model.train(False).to(torch.device(options.device))
    except (RuntimeError, AssertionError) as error:
        raise ModelLoadError(f"device {options.device!r}: {error}") from error
    return model


def decoder_of(model: PreTrainedModel) -> PreTrainedModel:
    """The model without its output embedding."""
    decoder: PreTrainedModel = model.get_decoder()  # type: ignore[no-untyped-call]
    return decoder


def output_head(model: PreTrainedModel) -> nn.Linear:
    """The output embedding.

    Raises:
        ModelLoadError: The model has none, or it isn't linear.
    """
    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    if not isinstance(head, nn.Linear):
        raise ModelLoadError(f"architectures: {type(model).__name__} has no linear output embedding")
    return head


def describe_model(model: PreTrainedModel, options: EngineOptions) -> ModelInfo:
    """Says what a model is.

    Raises:
        ModelLoadError: It has no usable tokenizer, or the configuration states no context length.
    """
    try:
        tokenizer = load_tokenizer(options.model, options.revision)
    except ValueError as error:
        raise ModelLoadError(str(error)) from error
    text_config = model.config.get_text_config(decoder=True)
    context_len = getattr(text_config, "max_position_embeddings", None)
    if not isinstance(context_len, int) or context_len < 2:
        raise ModelLoadError(f"model {options.model!r}: config.json: max_position_embeddings is {context_len!r}")
    return ModelInfo(
        model_id=options.model,
        revision=options.revision,
        vocab_size=output_head(model).out_features,
        hidden_size=text_config.hidden_size,
        tokenizer_sha256=tokenizer_sha256(tokenizer),
        # parameters() yields a tied weight once.
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        context_len=context_len,
        eos_token_ids=_eos_token_ids(model),
        engine="transformers",
    )


def _check_files(model: str) -> None:
    folder = Path(model)
    if not folder.is_dir():
        return
    if not (folder / "config.json").is_file():
        raise ModelLoadError(f"model {model!r}: config.json is missing")
    weight_files = sorted(folder.glob("*.safetensors"))
    if not weight_files:
        raise ModelLoadError(f"model {model!r}: model.safetensors is missing; other weight formats aren't loaded")
    for file in weight_files:
        try:
            with safe_open(file, framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise ModelLoadError(f"model {model!r}: {file.name} is damaged: {error}") from error


def _load_config(options: EngineOptions) -> PreTrainedConfig:
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(options.model, revision=options.revision or None)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelLoadError(f"model {options.model!r}: config.json can't be used: {error}") from error
    if fault := _unsupported_field(config.get_text_config(decoder=True)):
        raise ModelLoadError(
            f"model {options.model!r}: config.json: {fault}: the transformers engine serves full and sliding-window "
            "attention over a standard cache; for others try --engine sglang"
        )
    return config


def _auto_class(config: PreTrainedConfig, model: str) -> Any:
    """What loads a model that writes text; one that also sees images is used for text alone.

    Its type is unknown to the stubs, as is the pair that it returns with `output_loading_info`.
    """
    if type(config) in MODEL_FOR_CAUSAL_LM_MAPPING:
        return AutoModelForCausalLM
    if type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        return AutoModelForImageTextToText
    raise ModelLoadError(
        f"model {model!r}: config.json: model_type {config.model_type!r} is no language model of transformers; "
        "for others try --engine sglang"
    )


def _attention(config: PreTrainedConfig) -> str | None:
    """The attention that a model needs; None if any does."""
    # The fused kernels of torch can't cap scores, and transformers calls them regardless.
    is_capped = getattr(config.get_text_config(decoder=True), "attn_logit_softcapping", None) is not None
    return "eager" if is_capped else None


def _unsupported_field(config: PreTrainedConfig) -> str | None:
    layer_types = set(getattr(config, "layer_types", None) or ())
    if other := sorted(layer_types - {FULL_ATTENTION, SLIDING_ATTENTION}):
        return f"layer_types contains {other[0]!r}"
    for field in ("attention_chunk_size", "num_kv_shared_layers", "use_bidirectional_attention"):
        if getattr(config, field, None):
            return f"{field} is {getattr(config, field)}"
    rope = getattr(config, "rope_parameters", None) or {}
    # One set of parameters, or one for each type of layer.
    for each in (rope, *(value for value in rope.values() if isinstance(value, dict))):
        # These scale by the longest row of the batch, so a row's result would depend on its neighbours.
        if each.get("rope_type") in ("dynamic", "longrope"):
            return f"rope_parameters.rope_type is {each['rope_type']!r}"
    return None


def _eos_token_ids(model: PreTrainedModel) -> tuple[int, ...]:
    generation = getattr(model, "generation_config", None)
    eos = getattr(generation, "eos_token_id", None)
    if eos is None:
        eos = getattr(model.config, "eos_token_id", None)
    if eos is None:
        return ()
    return (eos,) if isinstance(eos, int) else tuple(eos)
