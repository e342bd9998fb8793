"""What every LLM engine does where KV is short: `services.engines.base` is the contract's text."""

from __future__ import annotations

import pytest

from services.common.errors import PrefixConflict
from tests.contract.conftest import CHUNK_LEN, SMALL_KV_TOKENS, Prompts
from tests.contract.drivers import LlmDriver
from tests.contract.reference import Reference
from tests.contract.test_llm_engine import assert_right

pytestmark = pytest.mark.asyncio(loop_scope="session")

OLD, YOUNG = 90, 10
"""The ids say the opposite of the priorities."""
MOST_LEN = 200
"""Two of these don't fit."""


async def test_all_of_many_are_answered_as_with_room_for_all(
    small_llm: LlmDriver, llm_reference: Reference, prompt: Prompts
) -> None:
    by_age = [17, 3, 11, 5, 2, 13, 7, 1]
    token_ids = {sequence_id: prompt(100) for sequence_id in by_age}
    ends = [60, 61, 80, 100]
    before = small_llm.engine.load.num_preemptions

    def ask(sequence_id: int, pass_id: int) -> None:
        base_len, end = [0, *ends][pass_id : pass_id + 2]
        new = token_ids[sequence_id][base_len:end]
        small_llm.extend(sequence_id, base_len, new, [end], pass_id, priority=by_age.index(sequence_id))

    for sequence_id in reversed(by_age):
        ask(sequence_id, 0)
        # The younger ones have KV by the time that older ones come.
        await small_llm.step()
    num_answers = len(small_llm.answers)
    for answer in list(small_llm.answers.values()):
        ask(answer.sequence_id, 1)
    while num_answers < len(ends) * len(by_age):
        for answer in await small_llm.step():
            num_answers += 1
            assert_right(llm_reference, token_ids[answer.sequence_id], [ends[answer.pass_id]], answer.token_ids)
            if answer.pass_id + 1 < len(ends):
                ask(answer.sequence_id, answer.pass_id + 1)
            else:
                small_llm.release(answer.sequence_id)
    load = small_llm.engine.load
    assert load.num_preemptions > before
    assert load.num_kv_tokens_used <= load.num_kv_tokens_capacity


async def test_oldest_is_answered_first(small_llm: LlmDriver, prompt: Prompts) -> None:
    for rank in reversed(range(6)):
        small_llm.extend(10 - rank, 0, prompt(MOST_LEN), [MOST_LEN], priority=rank)
    answered: list[int] = []
    while len(answered) < 6:
        for answer in await small_llm.step():
            answered.append(answer.sequence_id)
            small_llm.release(answer.sequence_id)
    assert answered == [10, 9, 8, 7, 6, 5]


async def test_kv_without_a_question_goes_to_a_younger_one_in_the_end_and_its_tokens_still_count(
    small_llm: LlmDriver, llm_reference: Reference, prompt: Prompts
) -> None:
    old, young = prompt(MOST_LEN + 10), prompt(MOST_LEN)
    await small_llm.ask(OLD, 0, old[:MOST_LEN], [MOST_LEN], priority=1)
    answer = await small_llm.ask(YOUNG, 0, young, [MOST_LEN], priority=2)
    assert_right(llm_reference, young, [MOST_LEN], answer.token_ids)
    with pytest.raises(PrefixConflict) as conflict:
        small_llm.extend(OLD, MOST_LEN + 1, [1], [MOST_LEN + 2], 1, priority=1)
    assert conflict.value.need_from == MOST_LEN
    answer = await small_llm.ask(OLD, MOST_LEN, old[MOST_LEN:], [MOST_LEN + 4, MOST_LEN + 10], 1, priority=1)
    assert_right(llm_reference, old, [MOST_LEN + 4, MOST_LEN + 10], answer.token_ids)


@pytest.mark.parametrize("base_len", [0, 1, MOST_LEN - 1])
async def test_base_of_a_sequence_without_kv_counts_all_its_tokens(
    small_llm: LlmDriver, llm_reference: Reference, prompt: Prompts, base_len: int
) -> None:
    old = prompt(MOST_LEN)
    await small_llm.ask(OLD, 0, old, [MOST_LEN], priority=1)
    await small_llm.ask(YOUNG, 0, prompt(MOST_LEN), [MOST_LEN], priority=2)
    changed = old[:base_len] + prompt(20)
    positions = [base_len + 1, base_len + 20]
    answer = await small_llm.ask(OLD, base_len, changed[base_len:], positions, 1, priority=1)
    assert_right(llm_reference, changed, positions, answer.token_ids)


@pytest.mark.parametrize("num_steps", [1, 2, 3])
async def test_pass_that_was_half_answered_is_answered_once(
    small_llm: LlmDriver, llm_reference: Reference, prompt: Prompts, num_steps: int
) -> None:
    young, old = prompt(MOST_LEN), prompt(MOST_LEN)
    positions = [1, CHUNK_LEN, CHUNK_LEN + 1, 2 * CHUNK_LEN + 5, MOST_LEN - 30]
    small_llm.extend(YOUNG, 0, young, positions, priority=2)
    for _ in range(num_steps):
        # A fake answers in one step.
        if (YOUNG, 0) not in small_llm.answers:
            await small_llm.step()
    small_llm.extend(OLD, 0, old, [MOST_LEN], priority=1)
    assert_right(llm_reference, old, [MOST_LEN], (await small_llm.answer(OLD)).token_ids)
    small_llm.release(OLD)
    answer = small_llm.answers.pop((YOUNG, 0), None) or await small_llm.answer(YOUNG)
    assert_right(llm_reference, young, positions, answer.token_ids)


async def test_newer_extension_replaces_one_that_waits_for_room(
    small_llm: LlmDriver, llm_reference: Reference, prompt: Prompts
) -> None:
    young = prompt(MOST_LEN)
    small_llm.extend(OLD, 0, prompt(MOST_LEN), [MOST_LEN], priority=1)
    small_llm.extend(YOUNG, 0, young[:150], [150], 1, priority=2)
    small_llm.extend(YOUNG, 140, young[140:], [145, MOST_LEN], 2, priority=2)
    await small_llm.answer(OLD)
    small_llm.release(OLD)
    answer = await small_llm.answer(YOUNG, 2)
    assert_right(llm_reference, young, [145, MOST_LEN], answer.token_ids)
    assert (YOUNG, 1) not in small_llm.answers


async def test_release_of_a_sequence_without_kv_leaves_the_others_alone(
    small_llm: LlmDriver, llm_reference: Reference, prompt: Prompts
) -> None:
    old = prompt(SMALL_KV_TOKENS)
    small_llm.extend(YOUNG, 0, prompt(MOST_LEN), [MOST_LEN], priority=2)
    await small_llm.step()
    small_llm.extend(OLD, 0, old, [SMALL_KV_TOKENS], priority=1)
    if (YOUNG, 0) not in small_llm.answers:
        await small_llm.step()
    small_llm.release(YOUNG)
    assert_right(llm_reference, old, [SMALL_KV_TOKENS], (await small_llm.answer(OLD)).token_ids)
    assert small_llm.engine.load.num_active_sequences == 1
