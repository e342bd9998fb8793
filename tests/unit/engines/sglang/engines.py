"""The engines on a fake of SGLang's process."""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from services.engines.base import EngineOptions
from services.engines.sglang.llm import SglangLlmEngine
from services.engines.sglang.slm import SglangSlmEngine
from tests.unit.engines.sglang.fake_process import FakeSglangProcess

STEP_TIMEOUT_S = 20.0
NEVER_STOPS: frozenset[int] = frozenset()


def options_for(kv_cache_tokens: int, max_batch_size: int = 4) -> EngineOptions:
    return EngineOptions("fake", kv_cache_tokens=kv_cache_tokens, max_batch_size=max_batch_size)


@asynccontextmanager
async def running_slm(
    kv_cache_tokens: int = 64,
    *,
    rng: random.Random | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> AsyncIterator[tuple[SglangSlmEngine, FakeSglangProcess]]:
    options = options_for(kv_cache_tokens)
    process = FakeSglangProcess(options, has_features=True, rng=rng)
    engine = SglangSlmEngine(options, process, clock)
    await engine.start()
    try:
        yield engine, process
    finally:
        await engine.stop()


@asynccontextmanager
async def running_llm(
    kv_cache_tokens: int = 64, *, rng: random.Random | None = None
) -> AsyncIterator[tuple[SglangLlmEngine, FakeSglangProcess]]:
    options = options_for(kv_cache_tokens)
    process = FakeSglangProcess(options, has_features=False, rng=rng)
    engine = SglangLlmEngine(options, process)
    await engine.start()
    try:
        yield engine, process
    finally:
        await engine.stop()
