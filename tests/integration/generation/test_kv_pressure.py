"""Far more streams than the KV caches hold, over two orchestrators: all end, with their reference tokens."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from evaluation.exactness import Reference
from evaluation.reference.pair import WEIGHTS_DIR
from tests.integration.harness.completions import assert_is_reference, client, cycled, generate, request_for, tell
from tests.integration.harness.pair import Replica, RunningPair, llm_info, running, slm_load
from tests.serving import until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

KV_TOKENS = 512
NUM_STREAMS = 16
PATIENCE_S = 240.0


@pytest_asyncio.fixture(params=["transformers", pytest.param("sglang", marks=pytest.mark.sglang)])
async def small(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[Replica, Replica]]:
    """An SLM and an LLM replica whose KV holds two or three of the streams."""
    replicas = [
        Replica(
            f"services.{role}", "--model", str(WEIGHTS_DIR / role), "--engine", request.param,
            "--kv-cache-tokens", str(KV_TOKENS), directory=tmp_path / role,
        )
        for role in ("slm", "llm")
    ]  # fmt: skip
    async with running(replicas[0]) as slm, running(replicas[1]) as llm:
        yield slm, llm


async def test_streams_beyond_the_kv_of_both_models_all_end_with_the_reference(
    pair: RunningPair, references: list[Reference], small: tuple[Replica, Replica]
) -> None:
    slm, llm = small
    addresses = {"slm": slm.address, "llm": llm.address}
    async with (
        pair.running_orchestrator("pressed", **addresses) as front,
        pair.running_orchestrator("pressed-2", **addresses) as other,
        client(front) as stub,
        client(other) as other_stub,
    ):
        for threshold in sorted({reference.threshold for reference in references}):
            chosen = cycled([each for each in references if each.threshold == threshold], NUM_STREAMS)
            streams = [
                generate((stub, other_stub)[number % 2], request_for(reference))
                for number, reference in enumerate(chosen)
            ]
            completions = await asyncio.wait_for(asyncio.gather(*streams), PATIENCE_S)
            for completion, reference in zip(completions, chosen, strict=True):
                assert_is_reference(completion, reference)
        loads = [await slm_load(slm), (await llm_info(llm)).load]
        tell("preemptions of slm and llm", [load.num_preemptions for load in loads])
        assert all(load.num_preemptions > 0 for load in loads)

        async def nothing_is_left() -> bool:
            loads = [await slm_load(slm), (await llm_info(llm)).load]
            return sum(load.num_active_sequences for load in loads) == 0

        await until(nothing_is_left, timeout_s=30)


@pytest.mark.alone
async def test_eight_times_the_streams_that_kv_holds_keep_most_of_the_speed(
    pair: RunningPair, references: list[Reference], tmp_path: Path
) -> None:
    few, many = 8, 64
    threshold = sorted({reference.threshold for reference in references})[1]
    chosen = cycled([each for each in references if each.threshold == threshold], many)
    longest = max(len(each.prompt_token_ids) + len(each.completion) for each in chosen)
    # Blocks of 16 tokens, and one for what runs ahead.
    kv_tokens = few * 16 * (longest // 16 + 2)
    slm, llm = (
        Replica(
            f"services.{role}", "--model", str(WEIGHTS_DIR / role), "--kv-cache-tokens", str(kv_tokens),
            directory=tmp_path / role,
        )
        for role in ("slm", "llm")
    )  # fmt: skip
    async with (
        running(slm),
        running(llm),
        pair.running_orchestrator("crowded", slm=slm.address, llm=llm.address) as front,
        client(front) as stub,
    ):
        speeds: dict[int, list[float]] = {few: [], many: []}
        for repetition in range(4):
            for num_streams in (few, many):
                places = asyncio.Semaphore(num_streams)

                async def run(reference: Reference, places: asyncio.Semaphore = places) -> int:
                    async with places:
                        completion = await generate(stub, request_for(reference))
                    assert_is_reference(completion, reference)
                    return len(completion.token_ids)

                began = time.monotonic()
                num_tokens = sum(await asyncio.gather(*map(run, chosen)))
                if repetition:
                    speeds[num_streams].append(num_tokens / (time.monotonic() - began))
        preemptions = [(await slm_load(slm)).num_preemptions, (await llm_info(llm)).load.num_preemptions]
    ratios = [crowded / calm for calm, crowded in zip(speeds[few], speeds[many], strict=True)]
    tell("tokens/s of 8 and 64 streams", {number: [round(each) for each in seen] for number, seen in speeds.items()})
    tell("64 : 8", [round(ratio, 2) for ratio in ratios])
    tell("preemptions of slm and llm", preemptions)
    assert statistics.median(ratios) >= 0.7
