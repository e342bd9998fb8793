"""What a model is, found out without loading its weights.

Owns the checks that give a damaged or missing file a name before SGLang starts.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

from services.engines.base import EngineOptions, ModelInfo, ModelLoadError
from services.engines.transformers.loading import describe_model


def describe(options: EngineOptions) -> ModelInfo:
    """Describes a model from its configuration, tokenizer and file headers.

    Raises:
        ModelLoadError: A file is missing or damaged, or the configuration is unknown; the message names it.
    """
    folder = Path(options.model)
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise ModelLoadError(f"model {options.model!r}: {file.name} is damaged: {error}") from error
    if folder.is_dir() and not any(folder.glob("*.safetensors")):
        raise ModelLoadError(
            f"model {options.model!r}: model.safetensors is missing; other weight formats aren't loaded"
        )
    revision = options.revision or "main"
    try:
        config = AutoConfig.from_pretrained(options.model, revision=revision)
        # On this device a model has shapes, and no weights.
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelLoadError(f"model {options.model!r}: config.json can't be used: {error}") from error
    try:
        model.generation_config = GenerationConfig.from_pretrained(options.model, revision=revision)
    except OSError:
        # The file is optional; the configuration then names the end-of-sequence tokens.
        model.generation_config = GenerationConfig.from_model_config(config)
    info = describe_model(model, options)
    return replace(info, engine="sglang", context_len=min(info.context_len, options.kv_cache_tokens))
