"""What every SLM engine does with its KV: reuse, its budget, and prefill in chunks."""

from __future__ import annotations

import pytest

from services.common.errors import (
    ContextLengthExceeded,
    InvalidRequest,
)
from tests.contract.conftest import CHUNK_LEN, REAL_ENGINES, SMALL_KV_TOKENS, Prompts
from tests.contract.drivers import SlmDriver
from tests.contract.reference import Reference, assert_follows

pytestmark = pytest.mark.asyncio(loop_scope="session")
real_engines = pytest.mark.parametrize("engine_name", REAL_ENGINES, indirect=True)


@real_engines
async def test_reopened_prefix_is_reused_and_counted(
    slm: SlmDriver, slm_reference: Reference, prompt: Prompts
) -> None:
    token_ids = prompt(50)
    slm.open(1, token_ids, draft_until=60)
    await slm.until_len(1, 60)
    # A token-wise cache reuses the few first tokens that two random prompts share by chance.
    assert slm.opened[1].num_tokens_reused < 16
    assert slm.opened[1].num_tokens_reused + slm.opened[1].num_tokens_prefilled == 50
    grown = slm.token_ids[1] + prompt(5)
    slm.close(1)
    reused_before = slm.engine.load.num_tokens_reused
    slm.open(2, grown, draft_until=75)
    await slm.until_len(2, 75)
    assert slm.opened[2].num_tokens_reused >= 48
    assert slm.opened[2].num_tokens_reused + slm.opened[2].num_tokens_prefilled == 65
    assert slm.engine.load.num_tokens_reused - reused_before == slm.opened[2].num_tokens_reused
    assert_follows(slm_reference, slm.token_ids[2], 65)


@real_engines
async def test_prefix_that_is_wholly_cached_still_drafts(
    slm: SlmDriver, slm_reference: Reference, prompt: Prompts
) -> None:
    token_ids = prompt(48)
    for sequence_id in (1, 2):
        slm.open(sequence_id, token_ids, draft_until=52)
        await slm.until_len(sequence_id, 52)
        assert_follows(slm_reference, slm.token_ids[sequence_id], 48)


async def test_cleared_prefix_cache_hands_out_nothing(
    slm: SlmDriver, slm_reference: Reference, prompt: Prompts
) -> None:
    token_ids = prompt(48)
    slm.open(1, token_ids, draft_until=52)
    await slm.until_len(1, 52)
    with pytest.raises(InvalidRequest, match="sequence_id: 1"):
        await slm.engine.clear_prefix_cache()
    slm.close(1)
    await slm.engine.clear_prefix_cache()
    slm.open(2, token_ids, draft_until=52)
    await slm.until_len(2, 52)
    assert slm.opened[2].num_tokens_reused == 0
    assert_follows(slm_reference, slm.token_ids[2], 48)


async def test_one_sequence_may_fill_the_kv_budget_which_bounds_the_context(
    small_slm: SlmDriver, slm_reference: Reference, prompt: Prompts
) -> None:
    assert small_slm.engine.info.context_len == SMALL_KV_TOKENS
    small_slm.open(1, prompt(SMALL_KV_TOKENS - 20), draft_until=SMALL_KV_TOKENS + 10)
    await small_slm.until_len(1, SMALL_KV_TOKENS)
    assert_follows(slm_reference, small_slm.token_ids[1], SMALL_KV_TOKENS - 20)
    with pytest.raises(ContextLengthExceeded, match=f"token_ids: .*{SMALL_KV_TOKENS}"):
        small_slm.open(2, prompt(SMALL_KV_TOKENS))


@real_engines
@pytest.mark.alone
async def test_long_prefill_runs_in_chunks_between_which_others_draft(
    slm: SlmDriver, slm_reference: Reference, prompt: Prompts
) -> None:
    slm.open(1, prompt(10))
    await slm.until_len(1, 12)
    before = len(slm.token_ids[1])
    slm.open(2, prompt(200), draft_until=205)
    await slm.until(lambda: 2 in slm.opened)
    assert len(slm.token_ids[1]) - before >= 200 // CHUNK_LEN - 1
    await slm.until_len(2, 205)
    assert_follows(slm_reference, slm.token_ids[1], 10)
    assert_follows(slm_reference, slm.token_ids[2], 200)
