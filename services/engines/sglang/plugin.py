"""What Trivium plugs into SGLang, through the entry-point group `sglang.srt.plugins`.

SGLang calls `register` in each of its processes before it starts. Requests that don't come from Trivium are served as
if the plugin weren't there.
"""

from __future__ import annotations

from typing import Any

CPU_ATTENTION_BACKEND = "trivium_cpu"
"""Attention backend that the engines choose on a CPU."""


def register() -> None:
    """Registers the sampler that hands out router features and what the CPU needs."""
    from sglang.srt.layers.attention.attention_registry import register_attention_backend
    from sglang.srt.layers.sampler import register_sampler_backend
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType
    from sglang.srt.server_args import add_attention_backend_choices

    from services.engines.sglang.scheduler.sampler import FeatureSampler

    # SGLang forces this name on the CPU, and it is a built-in choice on a GPU: one name serves both.
    register_sampler_backend("pytorch", FeatureSampler)
    add_attention_backend_choices([CPU_ATTENTION_BACKEND])
    register_attention_backend(CPU_ATTENTION_BACKEND)(_create_cpu_attention)
    HookRegistry.register(
        "sglang.srt.configs.update_config.adjust_config_with_unaligned_cpu_tp",
        _forget_unchanged_heads,
        HookType.AFTER,
    )


def _create_cpu_attention(model_runner: object) -> object:
    from services.engines.sglang.scheduler.cpu_attention import CpuAttention

    return CpuAttention(model_runner)


def _forget_unchanged_heads(model_config: Any, *args: object) -> None:
    """Lets a Qwen2 configuration's `head_dim` count on a CPU, as it does on a GPU.

    SGLang notes the number of heads before it pads them for tensor parallelism, on a CPU even if it pads none, and
    its Qwen2 takes the note for a reason to derive the size of a head.
    """
    for config in (model_config.hf_config, model_config.hf_text_config):
        if getattr(config, "original_num_attention_heads", None) == config.num_attention_heads:
            del config.original_num_attention_heads
