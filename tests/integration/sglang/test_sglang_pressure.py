"""The real SGLang with KV for two or three of sixteen sequences: all end, with the tokens of an empty engine."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

import evaluation.reference
from evaluation.reference.corpus.samples import draw_sample
from labeler_jobs.models.huggingface import render_prompt
from services.common.text.tokenizer import load_tokenizer
from services.engines.base import EngineOptions, Extension
from tests.contract.drivers import STEP_TIMEOUT_S, SlmDriver
from tests.integration.harness.completions import tell

pytest.importorskip("services.engines.sglang", exc_type=ModuleNotFoundError)
from services.engines.sglang import SglangLlmEngine, SglangSlmEngine

pytestmark = [pytest.mark.sglang, pytest.mark.integration, pytest.mark.timeout(900)]

WEIGHTS = Path(evaluation.reference.__file__).parent / "weights"
KV_TOKENS = 512
NUM_SEQUENCES = 16
SEQUENCE_LEN = 200
WINDOW_LEN = 12
DELTA_LEN = 20


def prompts() -> list[list[int]]:
    tokenizer = load_tokenizer(str(WEIGHTS / "slm"))
    return [render_prompt(tokenizer, draw_sample(index).query)[:150] for index in range(NUM_SEQUENCES)]


async def draft_all(slm: SlmDriver, texts: dict[int, list[int]]) -> dict[int, list[int]]:
    """Drafts every text on to `SEQUENCE_LEN`, a window at a time, as a service grants them."""
    done: dict[int, list[int]] = {}
    for sequence_id, text in texts.items():
        slm.engine.open(
            sequence_id, text, epoch=1, draft_until=len(text) + WINDOW_LEN, stop_token_ids=frozenset(),
            priority=sequence_id,
        )  # fmt: skip
        slm.token_ids[sequence_id], slm.epochs[sequence_id] = list(text), 1
    while slm.token_ids:
        step = await slm.step()
        assert slm.engine.load.num_kv_tokens_used <= KV_TOKENS
        for sequence_id in step.sequence_ids:
            token_ids = slm.token_ids[sequence_id]
            if len(token_ids) == SEQUENCE_LEN:
                done[sequence_id] = token_ids
                slm.close(sequence_id)
            else:
                slm.engine.grant(sequence_id, draft_until=min(SEQUENCE_LEN, len(token_ids) + WINDOW_LEN))
    return done


async def test_slm_with_room_for_two_drafts_sixteen_as_one_at_a_time() -> None:
    engine = SglangSlmEngine(EngineOptions(str(WEIGHTS / "slm"), kv_cache_tokens=KV_TOKENS))
    await engine.start()
    try:
        texts = dict(enumerate(prompts()))
        alone: dict[int, list[int]] = {}
        for sequence_id, text in texts.items():
            alone |= await draft_all(SlmDriver(engine), {sequence_id: text})
        assert engine.load.num_preemptions == 0
        await engine.clear_prefix_cache()
        loop = asyncio.get_running_loop()
        began = loop.time()
        together = await draft_all(SlmDriver(engine), texts)
        tell("preemptions of the SLM", engine.load.num_preemptions)
        tell("seconds under pressure, SLM", loop.time() - began)
        assert together == alone
        assert engine.load.num_preemptions > 0
        assert engine.load.num_kv_tokens_used == 0
    finally:
        await engine.stop()


async def answer_all(engine: SglangLlmEngine, texts: dict[int, list[int]]) -> dict[int, list[int]]:
    """Asks for the token at every position of the texts, some positions at a time."""
    answers: dict[int, list[int]] = {sequence_id: [] for sequence_id in texts}

    def ask(sequence_id: int) -> None:
        text, start = texts[sequence_id], len(answers[sequence_id])
        end = min(len(text), start + DELTA_LEN)
        positions = range(start + 1, end + 1)
        engine.extend(Extension(sequence_id, start, text[start:end], positions, start, priority=sequence_id))

    for sequence_id in texts:
        ask(sequence_id)
    left = set(texts)
    while left:
        finished, refusals = await asyncio.wait_for(engine.step(), STEP_TIMEOUT_S)
        assert refusals == []
        assert engine.load.num_kv_tokens_used <= KV_TOKENS
        for answer in finished:
            answers[answer.sequence_id] += answer.token_ids
            if len(answers[answer.sequence_id]) < len(texts[answer.sequence_id]):
                ask(answer.sequence_id)
            else:
                engine.release(answer.sequence_id)
                left.remove(answer.sequence_id)
    return answers


async def test_llm_with_room_for_two_answers_sixteen_as_one_at_a_time() -> None:
    engine = SglangLlmEngine(EngineOptions(str(WEIGHTS / "llm"), kv_cache_tokens=KV_TOKENS))
    await engine.start()
    try:
        texts = {index: (text * 10)[:SEQUENCE_LEN] for index, text in enumerate(prompts())}
        alone: dict[int, list[int]] = {}
        for sequence_id, text in texts.items():
            alone |= await answer_all(engine, {sequence_id: text})
        assert engine.load.num_preemptions == 0
        await engine.clear_prefix_cache()
        loop = asyncio.get_running_loop()
        began = loop.time()
        together = await answer_all(engine, texts)
        tell("preemptions of the LLM", engine.load.num_preemptions)
        tell("seconds under pressure, LLM", loop.time() - began)
        assert together == alone
        assert engine.load.num_preemptions > 0
        assert engine.load.num_kv_tokens_used == 0
    finally:
        await engine.stop()
