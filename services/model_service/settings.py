"""The settings that the processes of the small and the large model share: which model, run how."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from services.common.serving.settings import ProcessSettings
from services.engines.base import EngineOptions


class EngineSettings(ProcessSettings):
    """Settings of a process that runs a model."""

    model: str = Field(min_length=1, description="Hugging Face id or local directory of the model.")
    revision: str = Field(
        default="", description="Hugging Face revision. Empty for the default, or for a local directory."
    )
    engine: Literal["transformers", "sglang"] = Field(default="transformers", description="What runs the model.")
    device: str = Field(default="cpu", min_length=1, description='torch device, e.g. "cpu" or "cuda".')
    dtype: Literal["float32", "bfloat16", "float16"] = Field(default="float32", description="Arithmetic and KV type.")
    max_batch_size: int = Field(default=32, ge=1, description="Most sequences in one forward pass.")
    kv_cache_tokens: int = Field(
        default=65536, ge=1, description="KV cache of all sequences together, in tokens; none can be longer."
    )
    prefill_chunk_len: int = Field(default=512, ge=1, description="Most tokens of one sequence in one forward pass.")
    tp_size: int = Field(default=1, ge=1, description="Tensor parallel ranks (engine sglang only).")
    num_threads: int = Field(default=1, ge=0, description="CPU threads of a forward pass. 0 leaves torch's default.")
    max_pending_mb: int = Field(
        default=64, ge=1, description="MiB that may wait for a slow reader before its stream is ended, per stream."
    )

    def engine_options(self) -> EngineOptions:
        """Returns the part that the engine is created with."""
        return EngineOptions(
            model=self.model,
            revision=self.revision,
            device=self.device,
            dtype=self.dtype,
            max_batch_size=self.max_batch_size,
            kv_cache_tokens=self.kv_cache_tokens,
            prefill_chunk_len=self.prefill_chunk_len,
            tp_size=self.tp_size,
            num_threads=self.num_threads,
        )
