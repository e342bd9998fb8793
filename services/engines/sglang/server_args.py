"""How an engine's options become SGLang's server arguments and environment.

Owns every setting of SGLang. Doesn't import it.
"""

from __future__ import annotations

import os
from typing import Any

from services.engines.base import EngineOptions
from services.engines.sglang.plugin import CPU_ATTENTION_BACKEND

SPARE_TOKENS = 8
"""SGLang keeps a few tokens of the context and of the KV pool to itself."""

MAX_DRAFTS = 64
"""Most drafts of one request. SGLang sets room for them aside when it starts the request."""

_PAGE_LEN = 1
"""SGLang also sets a page aside for each request that it starts."""


def pool_tokens(options: EngineOptions) -> int:
    """Length of SGLang's own KV pool, in tokens.

    The engine asks for prefixes of at most `kv_cache_tokens` tokens in all. SGLang runs `max_batch_size` of these
    requests at once, each of which may be ahead of the engine's account by its drafts. A pool of that size takes in
    all that the engine has admitted, so that SGLang has no reason to retract a request; see
    `services.engines.sglang.requests` for the one that is left.
    """
    return options.kv_cache_tokens + options.max_batch_size * (MAX_DRAFTS + _PAGE_LEN) + SPARE_TOKENS


def make_server_args(options: EngineOptions, context_len: int, has_features: bool) -> dict[str, Any]:
    """The arguments of `sglang.Engine`.

    Args:
        options: The engine's options.
        context_len: Longest sequence of the model, in tokens.
        has_features: Whether each token comes with router features.
    """
    arguments: dict[str, Any] = {
        "model_path": options.model,
        "revision": options.revision or None,
        "device": options.device,
        "dtype": options.dtype,
        "tp_size": options.tp_size,
        "context_length": context_len + SPARE_TOKENS,
        "max_total_tokens": pool_tokens(options),
        "max_running_requests": options.max_batch_size,
        "chunked_prefill_size": options.prefill_chunk_len,
        # Lets others decode between the chunks of a long prefill.
        "enable_mixed_chunk": True,
        # Short extends don't wait behind a long prompt; it fills what they leave of each pass.
        "schedule_policy": "shortest-prefill-first",
        "skip_tokenizer_init": True,
        "grammar_backend": "none",
        "sampling_backend": "pytorch",
        "enable_custom_logit_processor": True,
        "incremental_streaming_output": True,
        "sleep_on_idle": True,
    }
    if has_features:
        arguments["return_hidden_states_mode"] = "last"
    if options.device == "cpu":
        arguments |= {
            "attention_backend": CPU_ATTENTION_BACKEND,
            "disable_cuda_graph": True,
            "disable_overlap_schedule": True,
        }
    return arguments


def make_environment(options: EngineOptions) -> dict[str, str]:
    """What the environment of SGLang's processes has beyond that of this one."""
    environment = {
        # Lets the context be longer than the model's by the spare tokens, which are never used.
        "SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN": "1",
        # When a rank dies its sequences move to another replica, without a minute of diagnostics before SGLang ends.
        "SGLANG_PYSPY_DUMP_BEFORE_CRASH": "0",
        "SGLANG_CUDA_COREDUMP_BEFORE_CRASH": "0",
        # SGLang warns of every GPU kernel that a machine can't run.
        "PYTHONWARNINGS": "ignore",
    }
    if options.num_threads > 0:
        environment["OMP_NUM_THREADS"] = str(options.num_threads)
    if options.device == "cpu":
        environment["SGLANG_USE_CPU_ENGINE"] = "1"
        if options.tp_size > 1:
            environment["SGLANG_CPU_OMP_THREADS_BIND"] = _cores_of_ranks(options.tp_size)
    return environment


def _cores_of_ranks(tp_size: int) -> str:
    """Deals this process's cores out to the ranks: "0,2|1,3". With fewer cores than ranks they share."""
    cores = sorted(os.sched_getaffinity(0))
    groups = [cores[rank::tp_size] or [cores[rank % len(cores)]] for rank in range(tp_size)]
    return "|".join(",".join(map(str, group)) for group in groups)
