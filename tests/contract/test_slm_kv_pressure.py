"""What every SLM engine does where KV is short: `services.engines.base` is the contract's text."""

from __future__ import annotations

import asyncio

import pytest

from services.engines.preemption import IDLE_S
from tests.contract.conftest import SMALL_KV_TOKENS, Prompts
from tests.contract.drivers import SlmDriver
from tests.contract.reference import Reference, assert_follows

pytestmark = pytest.mark.asyncio(loop_scope="session")

OLD, YOUNG = 90, 10
"""The ids say the opposite of the priorities."""
MOST_LEN = 200
"""Two of these don't fit."""


async def robbed(slm: SlmDriver, prompt: Prompts, until_len: int) -> None:
    """The young sequence has drafted up to `until_len`, and lost its KV to the old one."""
    slm.open(YOUNG, prompt(MOST_LEN - 40), draft_until=MOST_LEN + 20, priority=2)
    await slm.until_len(YOUNG, until_len)
    before = slm.engine.load.num_preemptions
    slm.open(OLD, prompt(MOST_LEN), draft_until=MOST_LEN + 40, priority=1)
    await slm.until_len(OLD, MOST_LEN + 1)
    assert slm.engine.load.num_preemptions == before + 1


async def test_all_of_many_draft_as_with_room_for_all_and_older_ones_end_first(
    small_slm: SlmDriver, slm_reference: Reference, prompt: Prompts
) -> None:
    by_age = [17, 3, 11, 5, 2, 13, 7, 1]
    before = small_slm.engine.load.num_preemptions
    for sequence_id in reversed(by_age):
        small_slm.open(sequence_id, prompt(40), draft_until=100, priority=by_age.index(sequence_id))
    ended: list[int] = []
    while small_slm.token_ids:
        await small_slm.step()
        for sequence_id in sorted(small_slm.token_ids, key=by_age.index):
            token_ids = small_slm.token_ids[sequence_id]
            if len(token_ids) == 100:
                assert_follows(slm_reference, token_ids, 40)
                small_slm.close(sequence_id)
                ended.append(sequence_id)
    # Two and a half of them fit, so that one may overtake another that it ran beside.
    assert all(abs(ended.index(sequence_id) - rank) <= 2 for rank, sequence_id in enumerate(by_age))
    assert small_slm.engine.load.num_preemptions > before


async def test_step_tells_who_waits_for_the_batch_and_who_for_room(small_slm: SlmDriver, prompt: Prompts) -> None:
    small_slm.open(1, prompt(MOST_LEN), draft_until=MOST_LEN + 10)
    await small_slm.until_len(1, MOST_LEN + 1)
    for sequence_id in (2, 3, 4):
        small_slm.open(sequence_id, prompt(MOST_LEN), draft_until=MOST_LEN + 10)
    await small_slm.until_len(1, MOST_LEN + 3)
    step = await small_slm.step()
    assert (step.num_waiting_sequences, step.num_sequences_without_room) == (0, 3)
    assert small_slm.engine.load.num_sequences_without_room == 3
    small_slm.close_all()
    small_slm.open(1, prompt(10), draft_until=13)
    await small_slm.until_len(1, 12)
    assert (await small_slm.step()).num_sequences_without_room == 0


async def test_drafting_goes_on_where_it_was_once_there_is_room_again(
    small_slm: SlmDriver, slm_reference: Reference, prompt: Prompts
) -> None:
    await robbed(small_slm, prompt, MOST_LEN - 20)
    held = len(small_slm.token_ids[YOUNG])
    await small_slm.until_len(OLD, MOST_LEN + 40)
    assert len(small_slm.token_ids[YOUNG]) == held
    assert_follows(slm_reference, small_slm.token_ids[OLD], MOST_LEN)
    small_slm.close(OLD)
    await small_slm.until_len(YOUNG, MOST_LEN + 20)
    assert_follows(slm_reference, small_slm.token_ids[YOUNG], MOST_LEN - 40)


async def test_kv_taken_in_the_middle_of_a_prefill_is_rebuilt_and_told_once(
    small_slm: SlmDriver, slm_reference: Reference, prompt: Prompts
) -> None:
    small_slm.open(YOUNG, prompt(MOST_LEN), draft_until=MOST_LEN + 5, priority=2)
    step = asyncio.ensure_future(small_slm.engine.step())
    for _ in range(2):
        await asyncio.sleep(0)
    small_slm.open(OLD, prompt(MOST_LEN), draft_until=MOST_LEN + 5, priority=1)
    small_slm.take(await step)
    for sequence_id in (OLD, YOUNG):
        await small_slm.until_len(sequence_id, MOST_LEN + 5)
        assert_follows(slm_reference, small_slm.token_ids[sequence_id], MOST_LEN)
        assert sequence_id in small_slm.opened
        small_slm.close(sequence_id)


@pytest.mark.parametrize("token_ids", [[], [5, 6]])
@pytest.mark.parametrize("length", [20, 176, 178])
async def test_rewind_of_a_sequence_without_kv_counts_all_its_tokens(
    small_slm: SlmDriver, slm_reference: Reference, prompt: Prompts, length: int, token_ids: list[int]
) -> None:
    await robbed(small_slm, prompt, 178)
    small_slm.rewind(YOUNG, length, token_ids, draft_until=length + 20)
    await small_slm.until_len(OLD, MOST_LEN + 40)
    small_slm.close(OLD)
    await small_slm.until_len(YOUNG, length + 20)
    assert_follows(slm_reference, small_slm.token_ids[YOUNG], max(length, MOST_LEN - 40) + len(token_ids))


async def test_closing_a_sequence_without_kv_leaves_the_others_alone(
    small_slm: SlmDriver, slm_reference: Reference, prompt: Prompts
) -> None:
    await robbed(small_slm, prompt, MOST_LEN - 30)
    small_slm.close(YOUNG)
    await small_slm.until_len(OLD, MOST_LEN + 40)
    assert_follows(slm_reference, small_slm.token_ids[OLD], MOST_LEN)


async def test_kv_behind_a_closed_window_goes_to_a_younger_one_after_a_second(
    small_slm: SlmDriver, slm_reference: Reference, prompt: Prompts
) -> None:
    small_slm.open(OLD, prompt(MOST_LEN), draft_until=MOST_LEN + 2, priority=1)
    await small_slm.until_len(OLD, MOST_LEN + 2)
    closed_at = asyncio.get_running_loop().time()
    small_slm.open(YOUNG, prompt(MOST_LEN), draft_until=MOST_LEN + 2, priority=2)
    await small_slm.until_len(YOUNG, MOST_LEN + 2)
    assert asyncio.get_running_loop().time() - closed_at > 0.9 * IDLE_S
    small_slm.engine.grant(OLD, draft_until=MOST_LEN + 10)
    await small_slm.until_len(OLD, MOST_LEN + 10)
    for sequence_id in (OLD, YOUNG):
        assert_follows(slm_reference, small_slm.token_ids[sequence_id], MOST_LEN)


async def test_kv_behind_a_closed_window_goes_to_an_older_one_at_once(
    small_slm: SlmDriver, slm_reference: Reference, prompt: Prompts
) -> None:
    small_slm.open(YOUNG, prompt(MOST_LEN), draft_until=MOST_LEN + 2, priority=2)
    await small_slm.until_len(YOUNG, MOST_LEN + 2)
    closed_at = asyncio.get_running_loop().time()
    small_slm.open(OLD, prompt(MOST_LEN), draft_until=MOST_LEN + 2, priority=1)
    await small_slm.until_len(OLD, MOST_LEN + 2)
    assert asyncio.get_running_loop().time() - closed_at < 0.9 * IDLE_S
    assert_follows(slm_reference, small_slm.token_ids[OLD], MOST_LEN)


async def test_more_than_fit_may_be_open_and_hold_no_more_than_there_is(
    small_slm: SlmDriver, prompt: Prompts
) -> None:
    for sequence_id in range(20):
        small_slm.open(sequence_id, prompt(SMALL_KV_TOKENS - 1))
    assert small_slm.engine.load.num_kv_tokens_used == 0
    for _ in range(12):
        await small_slm.step()
        load = small_slm.engine.load
        assert 0 < load.num_kv_tokens_used <= load.num_kv_tokens_capacity
    assert load.num_active_sequences == 20
