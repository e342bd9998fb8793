"""The SGLang engines on the reference pair: they write what the models write, and end without a trace."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from pathlib import Path

import psutil
import pytest
import torch
from transformers import AutoModelForCausalLM

import evaluation.reference
from evaluation.reference.corpus.samples import draw_sample
from labeler_jobs.models.huggingface import render_prompt
from services.common.errors import ModelNotReady
from services.common.text.tokenizer import load_tokenizer
from services.engines.base import EngineOptions, Extension, ModelLoadError
from tests.contract.drivers import LlmDriver, SlmDriver
from tests.contract.reference import PlainModel, assert_follows
from tests.serving import until

pytest.importorskip("services.engines.sglang", exc_type=ModuleNotFoundError)
from services.engines.sglang import SglangLlmEngine, SglangSlmEngine

pytestmark = [pytest.mark.sglang, pytest.mark.integration]

WEIGHTS = Path(evaluation.reference.__file__).parent / "weights"
NUM_PROMPTS = 24
NUM_DRAFTS = 40


def prompts() -> list[list[int]]:
    tokenizer = load_tokenizer(str(WEIGHTS / "slm"))
    return [render_prompt(tokenizer, draw_sample(index).query) for index in range(NUM_PROMPTS)]


def plain_model(role: str, folder: Path) -> PlainModel:
    """The model in float32: the pair ships in bfloat16, which engines are told to widen."""
    AutoModelForCausalLM.from_pretrained(WEIGHTS / role, dtype=torch.float32).save_pretrained(folder / role)
    return PlainModel(folder / role)


def running_children() -> list[psutil.Process]:
    children = psutil.Process().children(recursive=True)
    return [child for child in children if child.status() != psutil.STATUS_ZOMBIE]


async def assert_ended(processes: list[psutil.Process]) -> None:
    """A zombie has ended; whoever adopted it hasn't looked yet."""
    for _ in range(50):
        left = [process for process in processes if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
        if not left:
            return
        await asyncio.sleep(0.1)
    raise AssertionError(f"left behind: {left}")


async def test_slm_drafts_of_many_prompts_equal_plain_decoding_and_stop_leaves_no_process(
    tmp_path: Path,
) -> None:
    before = set(running_children())
    engine = SglangSlmEngine(EngineOptions(model=str(WEIGHTS / "slm"), kv_cache_tokens=16384))
    await engine.start()
    started = [child for child in running_children() if child not in before]
    assert started
    try:
        slm = SlmDriver(engine)
        texts = prompts()
        stop_token_ids = frozenset(engine.info.eos_token_ids)
        for sequence_id, prompt in enumerate(texts):
            slm.open(sequence_id, prompt, draft_until=len(prompt) + NUM_DRAFTS, stop_token_ids=stop_token_ids)

        def is_done(sequence_id: int) -> bool:
            drafted = slm.token_ids[sequence_id][len(texts[sequence_id]) :]
            return len(drafted) == NUM_DRAFTS or (bool(drafted) and drafted[-1] in stop_token_ids)

        await slm.until(lambda: all(map(is_done, range(NUM_PROMPTS))))
        reference = plain_model("slm", tmp_path)
        for sequence_id, prompt in enumerate(texts):
            assert_follows(reference, slm.token_ids[sequence_id], len(prompt))
        slm.close_all()
        assert engine.load.num_active_sequences == 0
        assert engine.load.num_rows > engine.load.num_steps
    finally:
        await engine.stop()
    await assert_ended(started)


# SGLang refuses to start where its ranks see different amounts of free memory.
@pytest.mark.alone
async def test_llm_on_two_ranks_answers_as_plain_decoding_and_says_when_a_rank_dies(
    tmp_path: Path,
) -> None:
    before = set(running_children())
    engine = SglangLlmEngine(EngineOptions(model=str(WEIGHTS / "llm"), kv_cache_tokens=16384, tp_size=2))
    await engine.start()
    started = [child for child in running_children() if child not in before]
    try:
        llm = LlmDriver(engine)
        reference = plain_model("llm", tmp_path)
        for sequence_id, prompt in enumerate(prompts()):
            length = len(prompt)
            positions = [length // 2, length - 1, length]
            answer = await llm.ask(sequence_id, 0, prompt, positions)
            for position, token_id in zip(positions, answer.token_ids, strict=True):
                assert reference.allows(prompt[:position], token_id)
            grown = [*prompt, answer.token_ids[-1]]
            further = await llm.ask(sequence_id, length, grown[length:], [length + 1], 1)
            assert reference.allows(grown, further.token_ids[0])
            assert further.num_tokens_prefilled == 1
        llm.release_all()
        assert engine.load.num_active_sequences == 0

        ranks = [process for process in started if "scheduler" in process.name()]
        assert len(ranks) == 2
        os.kill(ranks[1].pid, signal.SIGKILL)
        # It could finish a short pass before the signal reaches it.
        await until(lambda: not ranks[1].is_running() or ranks[1].status() == psutil.STATUS_ZOMBIE, 30)
        engine.extend(Extension(1, 0, [1, 2, 3], [3]))

        async def step_on() -> None:
            # A step that tells of passes alone may come first.
            while True:
                await engine.step()

        with pytest.raises(ModelNotReady):
            await asyncio.wait_for(step_on(), 60)
    finally:
        await engine.stop()
    await assert_ended(started)


async def test_start_with_damaged_weights_names_the_file(tmp_path: Path) -> None:
    folder = shutil.copytree(WEIGHTS / "slm", tmp_path / "slm")
    (folder / "model.safetensors").write_bytes(b"\xff" * 64)
    engine = SglangSlmEngine(EngineOptions(model=str(folder)))
    with pytest.raises(ModelLoadError, match=r"model\.safetensors is damaged"):
        await engine.start()
    await engine.stop()
