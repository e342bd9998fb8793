"""What every LLM engine does. `services.engines.base.LlmEngine` is the contract's text."""

from __future__ import annotations

import asyncio
import random

import pytest

from services.common.errors import (
    ContextLengthExceeded,
    InvalidRequest,
    PrefixConflict,
    PrefixNotFound,
    TriviumError,
)
from services.engines.base import GREEDY, SamplingParams
from tests.contract.conftest import CHUNK_LEN, REAL_ENGINES, SMALL_KV_TOKENS, Prompts
from tests.contract.drivers import LlmDriver
from tests.contract.reference import Reference
from tests.contract.tiny_models import CONTEXT_LEN

pytestmark = pytest.mark.asyncio(loop_scope="session")
real_engines = pytest.mark.parametrize("engine_name", REAL_ENGINES, indirect=True)


def assert_right(
    reference: Reference,
    token_ids: list[int],
    positions: list[int],
    answered: list[int],
    sampling: SamplingParams = GREEDY,
) -> None:
    assert len(answered) == len(positions)
    for position, token_id in zip(positions, answered, strict=True):
        assert reference.allows(token_ids[:position], token_id, sampling), f"position {position}"


async def test_answers_at_many_positions_equal_plain_decoding(
    llm: LlmDriver, llm_reference: Reference, prompt: Prompts
) -> None:
    lens = [1, 2, 16, 17, 31, 90]
    prompts = {length: prompt(length) for length in lens}
    queries = {length: sorted({1, (length + 1) // 2, length}) for length in lens}
    for length in lens:
        llm.extend(length, 0, prompts[length], queries[length], pass_id=length)
    for length in lens:
        answer = await llm.answer(length, length)
        assert_right(llm_reference, prompts[length], queries[length], answer.token_ids)


async def test_positions_asked_together_are_answered_as_when_asked_alone(llm: LlmDriver, prompt: Prompts) -> None:
    token_ids = prompt(45)
    positions = [5, 16, 17, 40, 45]
    together = await llm.ask(1, 0, token_ids, positions)
    alone = [(await llm.ask(position, 0, token_ids[:position], [position])).token_ids[0] for position in positions]
    assert together.token_ids == alone


async def test_deltas_extend_what_is_held(llm: LlmDriver, llm_reference: Reference, prompt: Prompts) -> None:
    token_ids = prompt(80)
    held = 0
    for pass_id, end in enumerate([20, 21, 32, 33, 60, 80]):
        answer = await llm.ask(1, held, token_ids[held:end], [end], pass_id)
        assert_right(llm_reference, token_ids, [end], answer.token_ids)
        held = end


@real_engines
async def test_delta_runs_the_new_tokens_only(llm: LlmDriver, prompt: Prompts) -> None:
    token_ids = prompt(60)
    await llm.ask(1, 0, token_ids[:50], [50])
    answer = await llm.ask(1, 50, token_ids[50:], [55, 60])
    assert (answer.num_tokens_reused, answer.num_tokens_prefilled) == (0, 10)


@pytest.mark.parametrize("base_len", [1, 15, 16, 17, 39, 40])
async def test_shorter_base_drops_the_rest_and_goes_on_with_other_tokens(
    llm: LlmDriver, llm_reference: Reference, prompt: Prompts, base_len: int
) -> None:
    token_ids = prompt(40)
    await llm.ask(1, 0, token_ids, [20, 40])
    changed = token_ids[:base_len] + prompt(9)
    positions = [base_len + 1, base_len + 9]
    answer = await llm.ask(1, base_len, changed[base_len:], positions, 1)
    assert_right(llm_reference, changed, positions, answer.token_ids)


async def test_disagreement_on_a_shared_prefix_leaves_the_other_sequence_alone(
    llm: LlmDriver, llm_reference: Reference, prompt: Prompts
) -> None:
    shared = prompt(40)
    await llm.ask(1, 0, shared, [40])
    await llm.ask(2, 0, shared, [40])
    changed = shared[:10] + prompt(30)
    assert_right(llm_reference, changed, [40], (await llm.ask(2, 10, changed[10:], [40], 1)).token_ids)
    grown = shared + prompt(5)
    assert_right(llm_reference, grown, [45], (await llm.ask(1, 40, grown[40:], [45], 1)).token_ids)


async def test_base_beyond_what_is_held_says_from_where_to_resend(llm: LlmDriver, prompt: Prompts) -> None:
    token_ids = prompt(30)
    await llm.ask(1, 0, token_ids[:20], [20])
    with pytest.raises(PrefixConflict, match="base_length: 25") as conflict:
        llm.extend(1, 25, token_ids[25:], [30])
    assert conflict.value.need_from == 20
    answer = await llm.ask(1, 20, token_ids[20:], [30], 1)
    assert len(answer.token_ids) == 1


async def test_unknown_sequence_with_a_base_is_not_found(llm: LlmDriver, prompt: Prompts) -> None:
    with pytest.raises(PrefixNotFound, match="sequence_id: 77") as not_found:
        llm.extend(77, 10, prompt(5), [12])
    assert not_found.value.need_from == 0
    assert llm.engine.load.num_active_sequences == 0


async def test_base_zero_starts_a_known_sequence_anew(
    llm: LlmDriver, llm_reference: Reference, prompt: Prompts
) -> None:
    await llm.ask(1, 0, prompt(40), [40])
    other = prompt(20)
    assert_right(llm_reference, other, [20], (await llm.ask(1, 0, other, [20], 1)).token_ids)


async def test_newer_extension_replaces_an_unanswered_one(
    llm: LlmDriver, llm_reference: Reference, prompt: Prompts
) -> None:
    token_ids = prompt(40)
    llm.extend(1, 0, token_ids[:30], [30], pass_id=1)
    llm.extend(1, 25, token_ids[25:], [40], pass_id=2)
    answer = await llm.answer(1, 2)
    assert_right(llm_reference, token_ids, [40], answer.token_ids)
    assert (1, 1) not in llm.answers


@pytest.mark.parametrize("num_yields", [0, 1, 2])
async def test_extension_while_a_step_runs_replaces_its_answer(
    llm: LlmDriver, llm_reference: Reference, prompt: Prompts, num_yields: int
) -> None:
    token_ids, changed = prompt(30), prompt(30)
    await llm.ask(1, 0, token_ids, [30])
    changed = token_ids[:20] + changed
    llm.extend(1, 30, [1, 2], [32], pass_id=1)
    step = asyncio.ensure_future(llm.engine.step())
    for _ in range(num_yields):
        await asyncio.sleep(0)
    if step.done() and num_yields > 1:
        pytest.skip("the step is over by then")
    llm.extend(1, 20, changed[20:], [50], pass_id=2)
    answers, _refusals = await step
    assert all(answer.pass_id == 2 for answer in answers)
    answer = answers[0] if answers else await llm.answer(1, 2)
    assert_right(llm_reference, changed, [50], answer.token_ids)


async def test_release_while_a_step_runs_returns_no_answer_of_it(llm: LlmDriver, prompt: Prompts) -> None:
    llm.extend(1, 0, prompt(10), [10])
    llm.extend(2, 0, prompt(10), [10])
    step = asyncio.ensure_future(llm.engine.step())
    await asyncio.sleep(0)
    assert not step.done()
    llm.release(1)
    answers, _refusals = await step
    assert all(answer.sequence_id == 2 for answer in answers)


@real_engines
async def test_released_prefix_is_reused_up_to_the_first_queried_position(
    llm: LlmDriver, llm_reference: Reference, prompt: Prompts
) -> None:
    token_ids = prompt(64)
    cold = await llm.ask(1, 0, token_ids, [64])
    # A token-wise cache reuses the few first tokens that two random prompts share by chance.
    assert cold.num_tokens_reused < 16
    assert cold.num_tokens_reused + cold.num_tokens_prefilled == 64
    llm.release(1)
    warm = await llm.ask(2, 0, token_ids, [64], 1)
    assert warm.num_tokens_reused >= 48
    assert warm.num_tokens_reused + warm.num_tokens_prefilled == 64
    early = await llm.ask(3, 0, token_ids, [20, 64], 2)
    assert early.num_tokens_reused <= 19
    assert_right(llm_reference, token_ids, [20, 64], early.token_ids)
    assert warm.token_ids == cold.token_ids == early.token_ids[1:]


@real_engines
async def test_queries_in_several_chunks_are_all_answered(
    llm: LlmDriver, llm_reference: Reference, prompt: Prompts
) -> None:
    token_ids = prompt(5 * CHUNK_LEN)
    positions = [1, CHUNK_LEN, CHUNK_LEN + 1, 3 * CHUNK_LEN + 5, 5 * CHUNK_LEN]
    llm.extend(1, 0, token_ids, positions)
    llm.extend(2, 0, token_ids[:5], [5])
    assert_right(llm_reference, token_ids, [5], (await llm.answer(2)).token_ids)
    assert_right(llm_reference, token_ids, positions, (await llm.answer(1)).token_ids)


# SGLang schedules by itself.
@pytest.mark.parametrize("engine_name", ["transformers"], indirect=True)
async def test_short_extension_does_not_wait_for_a_long_one(llm: LlmDriver, prompt: Prompts) -> None:
    token_ids = prompt(5 * CHUNK_LEN)
    llm.extend(1, 0, token_ids, [5 * CHUNK_LEN])
    llm.extend(2, 0, token_ids[:5], [5])
    await llm.answer(2)
    assert (1, 0) not in llm.answers
    await llm.answer(1)


async def test_more_extensions_than_a_batch_holds_are_all_answered(
    llm: LlmDriver, llm_reference: Reference, prompt: Prompts
) -> None:
    prompts = {sequence_id: prompt(5 + sequence_id) for sequence_id in range(11)}
    for sequence_id, token_ids in prompts.items():
        llm.extend(sequence_id, 0, token_ids, [len(token_ids)])
    for sequence_id, token_ids in prompts.items():
        assert_right(llm_reference, token_ids, [len(token_ids)], (await llm.answer(sequence_id)).token_ids)


async def test_one_sequence_may_fill_the_kv_budget_which_bounds_the_context(
    small_llm: LlmDriver, llm_reference: Reference, prompt: Prompts
) -> None:
    assert small_llm.engine.info.context_len == SMALL_KV_TOKENS
    token_ids = prompt(SMALL_KV_TOKENS + 1)
    answer = await small_llm.ask(1, 0, token_ids[:-1], [SMALL_KV_TOKENS])
    assert_right(llm_reference, token_ids[:-1], [SMALL_KV_TOKENS], answer.token_ids)
    with pytest.raises(ContextLengthExceeded, match=f"token_ids: .*{SMALL_KV_TOKENS}"):
        small_llm.extend(1, SMALL_KV_TOKENS, token_ids[-1:], [SMALL_KV_TOKENS + 1])


async def test_sampled_answers_depend_on_seed_and_position_alone(
    llm: LlmDriver, llm_reference: Reference, prompt: Prompts
) -> None:
    token_ids = prompt(40)
    sampling = SamplingParams(temperature=1.0, top_k=40, top_p=0.9, seed=5)
    together = await llm.ask(1, 0, token_ids, [10, 20, 40], sampling=sampling)
    alone = await llm.ask(2, 0, token_ids[:20], [20], sampling=sampling)
    assert together.token_ids[1] == alone.token_ids[0]
    assert_right(llm_reference, token_ids, [10, 20, 40], together.token_ids, sampling)


@pytest.mark.parametrize(
    ("base_len", "token_ids", "query_positions", "error", "message"),
    [
        (0, [], [1], InvalidRequest, "token_ids"),
        (0, [1, 2], [], InvalidRequest, "query_positions"),
        (0, [1, 2], [0], InvalidRequest, "query_positions"),
        (0, [1, 2], [3], InvalidRequest, "query_positions"),
        (0, [1, 2], [2, 1], InvalidRequest, "query_positions"),
        (0, [1, 2], [1, 1], InvalidRequest, "query_positions"),
        (0, [1, 1_000_000], [2], InvalidRequest, "token_ids: 1000000"),
        (0, [1, -5], [2], InvalidRequest, "token_ids: -5"),
        (-1, [1, 2], [1], InvalidRequest, "base_length: -1"),
        (0, [1] * (CONTEXT_LEN + 1), [1], ContextLengthExceeded, "token_ids"),
    ],
)
async def test_bad_extension_names_the_field_and_opens_nothing(
    llm: LlmDriver,
    base_len: int,
    token_ids: list[int],
    query_positions: list[int],
    error: type[TriviumError],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        llm.extend(1, base_len, token_ids, query_positions)
    assert llm.engine.load.num_active_sequences == 0


async def test_bad_extension_of_a_known_sequence_leaves_it_as_it_was(
    llm: LlmDriver, llm_reference: Reference, prompt: Prompts
) -> None:
    token_ids = prompt(30)
    await llm.ask(1, 0, token_ids[:20], [20])
    with pytest.raises(InvalidRequest):
        llm.extend(1, 10, [1, 2], [5])
    answer = await llm.ask(1, 20, token_ids[20:], [30], 1)
    assert_right(llm_reference, token_ids, [30], answer.token_ids)


async def test_release_of_an_unknown_sequence_is_ignored(llm: LlmDriver) -> None:
    llm.release(1234)
    assert llm.engine.load.num_active_sequences == 0


@pytest.mark.parametrize("seed", range(4))
async def test_random_extensions_are_answered_as_plain_decoding_answers(
    llm: LlmDriver, llm_reference: Reference, seed: int
) -> None:
    await extend_at_random(llm, llm_reference, seed)


async def extend_at_random(llm: LlmDriver, llm_reference: Reference, seed: int) -> None:
    generator = random.Random(seed)
    shared = [generator.randrange(128) for _ in range(60)]
    held: dict[int, list[int]] = {}
    asked: dict[int, tuple[int, list[int], list[int]]] = {}

    def extend_one(pass_id: int) -> None:
        sequence_id = generator.randrange(6)
        known = held.get(sequence_id, [])
        base_len = generator.choice([0, len(known), generator.randint(0, len(known))])
        fresh = shared[base_len:] if generator.random() < 0.4 else []
        new = (fresh or [generator.randrange(128) for _ in range(40)])[: generator.randint(1, 40)]
        token_ids = (known[:base_len] + new)[:CONTEXT_LEN]
        if len(token_ids) == base_len:
            return
        inside = range(base_len + 1, len(token_ids) + 1)
        positions = sorted(generator.sample(inside, min(len(inside), generator.randint(1, 4))))
        llm.extend(sequence_id, base_len, token_ids[base_len:], positions, pass_id)
        held[sequence_id] = token_ids
        asked[sequence_id] = (pass_id, token_ids, positions)

    def release_one() -> None:
        sequence_id = generator.randrange(6)
        llm.release(sequence_id)
        held.pop(sequence_id, None)
        asked.pop(sequence_id, None)

    for pass_id in range(80):
        step = asyncio.ensure_future(llm.engine.step())
        for _ in range(generator.randint(0, 2)):
            await asyncio.sleep(0)
        if not step.done():
            extend_one(pass_id)
            if generator.random() < 0.2:
                release_one()
        while not asked:
            extend_one(1000 + pass_id)
        answers, refusals = await step
        assert refusals == []
        for answer in answers:
            expected_pass, token_ids, positions = asked.pop(answer.sequence_id)
            assert answer.pass_id == expected_pass
            assert_right(llm_reference, token_ids, positions, answer.token_ids)
