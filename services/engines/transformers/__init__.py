"""Engines on `transformers` and torch: any Hugging Face language model, on the CPU or one GPU."""

from services.engines.transformers.llm_engine import TransformersLlmEngine
from services.engines.transformers.slm_engine import TransformersSlmEngine

__all__ = ["TransformersLlmEngine", "TransformersSlmEngine"]
