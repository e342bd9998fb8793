"""Routed generation with both models on SGLang writes what it writes on transformers and in the plain loop."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from evaluation.exactness import compare, reference_decodings, suite_prompts
from evaluation.reference.pair import WEIGHTS_DIR, LoadedPair
from tests.integration.harness.completions import tell
from tests.integration.harness.pair import Replica, RunningPair, running
from tests.ports import free_port
from tests.scraping import documented, scrape, served

pytest.importorskip("services.engines.sglang", exc_type=ModuleNotFoundError)

pytestmark = [pytest.mark.sglang, pytest.mark.integration, pytest.mark.timeout(900)]

NUM_PROMPTS = 20


async def test_generate_with_both_models_on_sglang_equals_transformers(
    pair: RunningPair, reference_pair: LoadedPair, tmp_path: Path
) -> None:
    prompts = suite_prompts(reference_pair, NUM_PROMPTS)
    references = reference_decodings(reference_pair, prompts, [reference_pair.rule()])
    ports = {role: free_port() for role in ("slm", "llm")}
    slm, llm = (
        Replica(
            f"services.{role}", "--engine", "sglang", "--model", str(WEIGHTS_DIR / role),
            "--metrics-port", str(port), directory=tmp_path / role,
        )
        for role, port in ports.items()
    )  # fmt: skip
    async with AsyncExitStack() as stack:
        for replica in (slm, llm):
            await stack.enter_async_context(running(replica))
        replicas = {"llm": llm.address, "slm": slm.address}
        front = await stack.enter_async_context(pair.running_orchestrator("sglang-front", **replicas))
        on_sglang = await compare(front.address, references, depths=(4,), concurrencies=(8,))
        for role, port in ports.items():
            metrics = await asyncio.to_thread(scrape, port)
            assert served(metrics) == documented(role)
            assert metrics.values[f"trivium_{role}_active_sequences"] == 0
            assert metrics.values[f"trivium_{role}_rows_total"] >= metrics.values[f"trivium_{role}_passes_total"] > 0
            assert metrics.values[f"trivium_{role}_kv_tokens_used"] == 0
    on_transformers = await compare(pair.front.address, references, depths=(4,), concurrencies=(8,))
    for (outcome,) in (on_sglang, on_transformers):
        assert outcome.num_compared == NUM_PROMPTS
        assert outcome.num_different == 0
        assert outcome.num_excused <= 1
        tell("near ties", outcome.num_excused)
        assert sum(token.from_llm for reference in references for token in reference.completion) > 0
