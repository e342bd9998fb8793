"""The transformers engines on models of several families: windows, rotary bases, caps and sinks of their own.

There is KV for two sequences and a half, and prompts take several chunks.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.contract.conftest import Prompts
from tests.contract.drivers import LlmDriver, SlmDriver
from tests.contract.families import FAMILIES, SLIDING_FAMILIES, WINDOW, family_config
from tests.contract.reference import PlainModel, assert_follows
from tests.contract.test_llm_engine import assert_right, extend_at_random
from tests.contract.test_slm_engine import command_at_random
from tests.contract.tiny_models import CONTEXT_LEN, write_model

pytestmark = pytest.mark.asyncio(loop_scope="session")
every_family = pytest.mark.parametrize(
    "engine_name", [f"transformers/{family}" for family in FAMILIES], indirect=True
)

NUM_DRAFTS = 2 * WINDOW


@every_family
async def test_drafts_and_features_are_those_of_the_full_forward_and_of_generate(
    small_slm: SlmDriver, slm_reference: PlainModel, prompt: Prompts
) -> None:
    # The older ones come later, and take the KV of the younger ones, which is built again.
    written = {3: 70, 2: 103, 1: 120}
    num_preemptions = small_slm.engine.load.num_preemptions
    for sequence_id, length in written.items():
        small_slm.open(sequence_id, prompt(length), draft_until=length + NUM_DRAFTS, priority=sequence_id)
        await small_slm.until_len(sequence_id, length + 2)
    await small_slm.until(
        lambda: all(len(small_slm.token_ids[each]) == written[each] + NUM_DRAFTS for each in written)
    )
    assert small_slm.engine.load.num_preemptions > num_preemptions

    for sequence_id, length in written.items():
        token_ids = small_slm.token_ids[sequence_id]
        generated = slm_reference.generate(token_ids[:length], NUM_DRAFTS)
        assert token_ids[length : length + len(generated)] == generated
    small_slm.rewind(2, 110, [5, 6], draft_until=112 + NUM_DRAFTS)
    grown = small_slm.token_ids[1] + prompt(5)
    small_slm.close(1)
    small_slm.open(4, grown, draft_until=len(grown) + NUM_DRAFTS)
    await small_slm.until_len(4, len(grown) + NUM_DRAFTS)
    await small_slm.until_len(2, 112 + NUM_DRAFTS)
    assert small_slm.opened[4].num_tokens_reused > 0
    for sequence_id, length in {3: 70, 2: 112, 4: len(grown)}.items():
        assert_follows(slm_reference, small_slm.token_ids[sequence_id], length)
        for position in range(length, length + NUM_DRAFTS):
            hidden_state, top_logits = small_slm.features[sequence_id, position]
            expected = slm_reference.features(small_slm.token_ids[sequence_id][:position])
            np.testing.assert_allclose(hidden_state, expected.hidden_state, atol=1e-3, rtol=1e-3)
            np.testing.assert_allclose(top_logits, expected.top_logits, atol=1e-3, rtol=1e-3)


@every_family
async def test_random_commands_leave_every_draft_as_the_full_forward_writes_it(
    small_slm: SlmDriver, slm_reference: PlainModel
) -> None:
    await command_at_random(small_slm, slm_reference, seed=0)


@every_family
async def test_answers_are_those_of_the_full_forward(
    small_llm: LlmDriver, llm_reference: PlainModel, prompt: Prompts
) -> None:
    young, old = prompt(150), prompt(120)
    positions = [1, WINDOW, WINDOW + 1, 32, 33, 100, 150]
    answer = await small_llm.ask(2, 0, young, positions, priority=2)
    assert_right(llm_reference, young, positions, answer.token_ids)
    num_preemptions = small_llm.engine.load.num_preemptions
    answer = await small_llm.ask(1, 0, old, [120], priority=1)
    assert_right(llm_reference, old, [120], answer.token_ids)
    assert small_llm.engine.load.num_preemptions > num_preemptions

    small_llm.release(1)
    changed = young[:90] + prompt(40)
    positions = [91, 90 + WINDOW, 130]
    answer = await small_llm.ask(2, 90, changed[90:], positions, 1, priority=2)
    assert_right(llm_reference, changed, positions, answer.token_ids)
    answer = await small_llm.ask(3, 0, changed, [129, 130], priority=3)
    assert answer.num_tokens_reused > 0
    assert_right(llm_reference, changed, [129, 130], answer.token_ids)


@every_family
async def test_random_extensions_are_answered_as_the_full_forward_answers(
    small_llm: LlmDriver, llm_reference: PlainModel
) -> None:
    await extend_at_random(small_llm, llm_reference, seed=0)


@pytest.mark.parametrize("family", SLIDING_FAMILIES)
async def test_without_its_window_a_model_would_write_something_else(
    family: str, prompt: Prompts, tmp_path: Path
) -> None:
    token_ids = prompt(40)
    narrow = PlainModel(write_model(tmp_path / "narrow", family_config(family), seed=1))
    wide_config = family_config(family)
    wide_config.sliding_window = CONTEXT_LEN
    wide = PlainModel(write_model(tmp_path / "wide", wide_config, seed=1))
    assert narrow.generate(token_ids, NUM_DRAFTS) != wide.generate(token_ids, NUM_DRAFTS)
