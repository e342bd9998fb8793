"""The real SGLang tells that a long prefill goes on, is silent while it is stuck, and says what it refuses."""

from __future__ import annotations

import asyncio
import json
import random
import signal
from pathlib import Path

import psutil
import pytest

from services.engines.base import GREEDY, EngineOptions
from tests.contract.drivers import STEP_TIMEOUT_S
from tests.contract.reference import PlainModel
from tests.contract.tiny_models import write_tiny_slm

pytest.importorskip("services.engines.sglang", exc_type=ModuleNotFoundError)
from services.engines.sglang import SglangSlmEngine
from services.engines.sglang.chunks import Chunk, unpack_chunk
from services.engines.sglang.process import SglangProcess
from services.engines.sglang.troubles import Trouble

pytestmark = [pytest.mark.sglang, pytest.mark.integration]

CONTEXT_LEN = 8192
PROMPT_LEN = 4000
CHUNK_LEN = 16
BEAT_S = 0.5
"""How often a step must come back while the scheduler gets on, on a machine that does nothing else."""


def write_model_with_a_long_context(folder: Path) -> Path:
    file = write_tiny_slm(folder) / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"max_position_embeddings": CONTEXT_LEN}))
    return folder


def schedulers() -> list[psutil.Process]:
    children = psutil.Process().children(recursive=True)
    return [child for child in children if "sglang::scheduler" in child.name()]


async def test_long_prefill_beats_while_the_scheduler_gets_on_and_is_silent_while_it_is_stuck(tmp_path: Path) -> None:
    folder = write_model_with_a_long_context(tmp_path)
    engine = SglangSlmEngine(
        EngineOptions(str(folder), kv_cache_tokens=2 * PROMPT_LEN, prefill_chunk_len=CHUNK_LEN, max_batch_size=4)
    )
    await engine.start()
    try:
        generator = random.Random(0)
        prompt = [generator.randrange(128) for _ in range(PROMPT_LEN)]
        loop = asyncio.get_running_loop()
        (scheduler,) = schedulers()
        engine.open(1, prompt, epoch=1, draft_until=PROMPT_LEN + 1, stop_token_ids=frozenset())
        began = loop.time()

        async def beat() -> None:
            step = await asyncio.wait_for(engine.step(), STEP_TIMEOUT_S)
            assert (step.sequence_ids, step.opened, step.refusals) == ([], [], [])

        for _ in range(2):
            await beat()
        scheduler.send_signal(signal.SIGSTOP)
        try:
            # One that was under way may still arrive.
            await asyncio.wait([stepping := asyncio.ensure_future(engine.step())], timeout=2 * BEAT_S)
            if stepping.done():
                stepping = asyncio.ensure_future(engine.step())
            done, _pending = await asyncio.wait([stepping], timeout=4 * BEAT_S)
            assert not done, "a step came back while the scheduler was stopped"
        finally:
            scheduler.send_signal(signal.SIGCONT)
        num_beats, step = 2, await asyncio.wait_for(stepping, STEP_TIMEOUT_S)
        while not step.sequence_ids:
            num_beats += 1
            step = await asyncio.wait_for(engine.step(), STEP_TIMEOUT_S)
        assert step.opened[0].num_tokens_prefilled == PROMPT_LEN
        assert PlainModel(folder).allows(prompt, step.token_ids[0])
        # The stop above took a part of this time, in which nothing beats.
        assert num_beats >= (loop.time() - began - 6 * BEAT_S) / BEAT_S / 2
        engine.close(1)
    finally:
        await engine.stop()


async def test_sglang_tells_what_it_refuses_of_that_request_alone(tmp_path: Path) -> None:
    process = SglangProcess(EngineOptions(str(write_tiny_slm(tmp_path)), kv_cache_tokens=512), has_features=False)
    await process.start()

    async def last_chunk(request_id: str) -> Chunk:
        while True:
            chunk = unpack_chunk(*await asyncio.wait_for(process.next_message(), STEP_TIMEOUT_S))
            if chunk.request_id == request_id and chunk.is_last:
                return chunk

    try:
        refused = [
            process.submit([1] * 300, max_new_tokens=2, sampling=GREEDY),
            process.submit([1] * 5000, max_new_tokens=2, sampling=GREEDY),
        ]
        taken = process.submit([1, 2, 3], max_new_tokens=2, sampling=GREEDY)
        for request_id in refused:
            chunk = await last_chunk(request_id)
            assert chunk.trouble is Trouble.REFUSED
            assert "length" in chunk.message
        again = process.submit([1, 2, 3], max_new_tokens=2, sampling=GREEDY)
        chunk = await last_chunk(again)
        assert (chunk.trouble, chunk.num_prompt_tokens) == (None, 3)
        assert taken != again
    finally:
        await process.stop()
