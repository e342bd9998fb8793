"""What every SLM engine does. `services.engines.base.SlmEngine` is the contract's text."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import numpy as np
import pytest

from services.engines.base import SamplingParams
from tests.contract.conftest import REAL_ENGINES, Prompts
from tests.contract.drivers import SlmDriver
from tests.contract.reference import Reference, assert_follows
from tests.contract.tiny_models import CONTEXT_LEN

pytestmark = pytest.mark.asyncio(loop_scope="session")
real_engines = pytest.mark.parametrize("engine_name", REAL_ENGINES, indirect=True)


async def test_greedy_drafts_of_many_prompts_equal_plain_decoding(
    slm: SlmDriver, slm_reference: Reference, prompt: Prompts
) -> None:
    lens = [1, 2, 15, 16, 17, 33, 100]
    for sequence_id, length in enumerate(lens):
        slm.open(sequence_id, prompt(length), draft_until=length + 20)
    await slm.until(lambda: all(len(slm.token_ids[index]) == length + 20 for index, length in enumerate(lens)))
    for sequence_id, length in enumerate(lens):
        assert_follows(slm_reference, slm.token_ids[sequence_id], length)
    assert slm.opened.keys() == set(range(len(lens)))


@real_engines
async def test_features_equal_those_of_plain_decoding(
    slm: SlmDriver, slm_reference: Reference, prompt: Prompts
) -> None:
    slm.open(1, prompt(40), draft_until=50)
    slm.open(2, prompt(9), draft_until=50)
    await slm.until(lambda: len(slm.token_ids[1]) == 50 and len(slm.token_ids[2]) == 50)
    for (sequence_id, position), (hidden_state, top_logits) in slm.features.items():
        expected = slm_reference.features(slm.token_ids[sequence_id][:position])
        np.testing.assert_allclose(hidden_state, expected.hidden_state, atol=1e-3)
        np.testing.assert_allclose(top_logits, expected.top_logits, atol=1e-3)


async def test_sequences_that_join_and_leave_between_steps_change_nobodys_drafts(
    slm: SlmDriver, slm_reference: Reference, prompt: Prompts
) -> None:
    slm.open(1, prompt(20))
    for guest in range(2, 8):
        slm.open(guest, prompt(3 * guest))
        await slm.until_len(guest, 3 * guest + 4)
        assert_follows(slm_reference, slm.token_ids[guest], 3 * guest)
        slm.close(guest)
    await slm.until_len(1, 40)
    assert_follows(slm_reference, slm.token_ids[1], 20)


async def test_rewind_with_another_token_drafts_on_from_it(
    slm: SlmDriver, slm_reference: Reference, prompt: Prompts
) -> None:
    slm.open(1, prompt(20))
    for length in (36, 33, 32, 31, 21, 20, 7):
        await slm.until_len(1, 40)
        other = (slm.token_ids[1][length] + 1) % 128
        slm.rewind(1, length, [other])
        await slm.until_len(1, 44)
        assert slm.token_ids[1][length] == other
        assert_follows(slm_reference, slm.token_ids[1], length + 1)


@pytest.mark.parametrize("length", [25, 32])
async def test_rewind_without_tokens_drafts_the_same_again(slm: SlmDriver, prompt: Prompts, length: int) -> None:
    slm.open(1, prompt(20))
    await slm.until_len(1, 36)
    before = slm.token_ids[1][:36]
    slm.rewind(1, length)
    await slm.until_len(1, 36)
    assert slm.token_ids[1][:36] == before


async def test_rewind_of_a_shared_prefix_leaves_the_other_sequence_alone(
    slm: SlmDriver, slm_reference: Reference, prompt: Prompts
) -> None:
    shared = prompt(40)
    slm.open(1, shared)
    await slm.until_len(1, 42)
    slm.open(2, shared)
    await slm.until_len(2, 42)
    slm.rewind(2, 10, [5, 6])
    await slm.until_len(2, 50)
    await slm.until_len(1, 60)
    assert_follows(slm_reference, slm.token_ids[1], 40)
    assert_follows(slm_reference, slm.token_ids[2], 12)


@pytest.mark.parametrize("num_yields", [0, 1, 2, 3])
async def test_rewind_while_a_step_runs_drops_the_stale_draft(
    slm: SlmDriver, slm_reference: Reference, prompt: Prompts, num_yields: int
) -> None:
    slm.open(1, prompt(20))
    slm.open(2, prompt(20))
    await slm.until(lambda: min(len(slm.token_ids[1]), len(slm.token_ids[2])) >= 24)
    step = asyncio.ensure_future(slm.engine.step())
    for _ in range(num_yields):
        await asyncio.sleep(0)
    if step.done() and num_yields > 1:
        slm.take(await step)
        pytest.skip("the step is over by then")
    slm.rewind(1, 22, [3])
    slm.take(await step)
    await slm.until(lambda: min(len(slm.token_ids[1]), len(slm.token_ids[2])) >= 30)
    assert_follows(slm_reference, slm.token_ids[1], 23)
    assert_follows(slm_reference, slm.token_ids[2], 20)


async def test_close_while_a_step_runs_returns_no_row_of_it(slm: SlmDriver, prompt: Prompts) -> None:
    slm.open(1, prompt(20))
    slm.open(2, prompt(20))
    await slm.until(lambda: min(len(slm.token_ids[1]), len(slm.token_ids[2])) >= 22)
    step = asyncio.ensure_future(slm.engine.step())
    await asyncio.sleep(0)
    assert not step.done()
    slm.close(1)
    assert 1 not in (await step).sequence_ids


async def test_window_stops_drafting_until_it_is_moved(slm: SlmDriver, prompt: Prompts) -> None:
    slm.open(1, prompt(10), draft_until=13)
    await slm.until_len(1, 13)
    await slm.assert_quiet()
    slm.engine.grant(1, draft_until=15)
    slm.engine.grant(1, draft_until=12)
    await slm.until_len(1, 15)
    await slm.assert_quiet()
    slm.rewind(1, 11, [9], draft_until=13)
    await slm.until_len(1, 13)
    await slm.assert_quiet()


async def test_closed_window_does_not_keep_others_waiting(slm: SlmDriver, prompt: Prompts) -> None:
    slm.open(1, prompt(10), draft_until=10)
    slm.open(2, prompt(10), draft_until=20)
    await slm.until_len(2, 20)
    assert len(slm.token_ids[1]) == 10
    slm.engine.grant(1, draft_until=12)
    await slm.until_len(1, 12)


async def test_stop_token_pauses_until_the_next_rewind(
    slm: SlmDriver, slm_reference: Reference, prompt: Prompts
) -> None:
    token_ids = prompt(10)
    slm.open(1, token_ids, draft_until=16)
    await slm.until_len(1, 16)
    stop = slm.token_ids[1][13]
    first = slm.token_ids[1].index(stop, 10)
    slm.close(1)
    slm.open(1, token_ids, stop_token_ids=frozenset({stop}))
    await slm.until_len(1, first + 1)
    slm.engine.grant(1, draft_until=CONTEXT_LEN)
    await slm.assert_quiet()
    slm.rewind(1, first, [(stop + 1) % 128], draft_until=first + 2)
    await slm.until_len(1, first + 2)
    assert_follows(slm_reference, slm.token_ids[1], first + 1)


async def test_context_length_ends_drafting(slm: SlmDriver, slm_reference: Reference, prompt: Prompts) -> None:
    slm.open(1, prompt(CONTEXT_LEN - 3))
    await slm.until_len(1, CONTEXT_LEN)
    await slm.assert_quiet()
    assert_follows(slm_reference, slm.token_ids[1], CONTEXT_LEN - 3)


async def test_more_sequences_than_a_batch_holds_all_go_on(slm: SlmDriver, prompt: Prompts) -> None:
    for sequence_id in range(10):
        slm.open(sequence_id, prompt(8), draft_until=16)
    num_waiting = (await slm.step()).num_waiting_sequences
    assert num_waiting == 6
    await slm.until(lambda: all(len(token_ids) == 16 for token_ids in slm.token_ids.values()))


async def test_sampled_drafts_depend_on_seed_and_position_alone(
    slm: SlmDriver, slm_reference: Reference, prompt: Prompts
) -> None:
    token_ids = prompt(12)
    sampling = SamplingParams(temperature=0.8, top_k=50, top_p=0.95, seed=11)
    slm.open(1, token_ids, draft_until=30, sampling=sampling)
    slm.open(2, token_ids, draft_until=30)
    slm.open(3, token_ids, draft_until=30, sampling=SamplingParams(temperature=0.8, seed=12))
    await slm.until(lambda: all(len(drafted) == 30 for drafted in slm.token_ids.values()))
    first = slm.token_ids[1][:]
    slm.rewind(1, 20, draft_until=30)
    await slm.until_len(1, 30)
    assert slm.token_ids[1] == first
    assert_follows(slm_reference, first, 12, sampling)
    assert len({tuple(drafted) for drafted in slm.token_ids.values()}) == 3


async def test_load_counts_sequences_and_steps(slm: SlmDriver, prompt: Prompts) -> None:
    before = slm.engine.load
    slm.open(1, prompt(20), draft_until=24)
    slm.open(2, prompt(20), draft_until=24)
    assert slm.engine.load.num_active_sequences == 2
    await slm.until(lambda: len(slm.token_ids[1]) == len(slm.token_ids[2]) == 24)
    load = slm.engine.load
    assert load.num_kv_tokens_capacity >= load.num_kv_tokens_used >= 40
    assert load.num_steps > before.num_steps
    assert load.num_rows - before.num_rows >= 8


@pytest.mark.parametrize("seed", range(4))
async def test_random_commands_leave_every_draft_as_plain_decoding_writes_it(
    slm: SlmDriver, slm_reference: Reference, seed: int
) -> None:
    await command_at_random(slm, slm_reference, seed)


async def command_at_random(slm: SlmDriver, slm_reference: Reference, seed: int) -> None:
    generator = random.Random(seed)
    prefixes = [[generator.randrange(128) for _ in range(50)] for _ in range(3)]
    # Where each sequence's drafts begin.
    written: dict[int, int] = {}

    def any_id() -> int:
        return generator.choice(list(written))

    def open_one() -> None:
        sequence_id = generator.getrandbits(63)
        prefix = generator.choice(prefixes)[: generator.randint(1, 50)]
        slm.open(sequence_id, prefix, draft_until=len(prefix) + generator.randint(0, 40))
        written[sequence_id] = len(prefix)

    def rewind_one() -> None:
        sequence_id = any_id()
        length = generator.randint(1, len(slm.token_ids[sequence_id]))
        token_ids = [generator.randrange(128) for _ in range(generator.randint(0, 2))]
        slm.rewind(sequence_id, length, token_ids, draft_until=length + generator.randint(0, 30))
        written[sequence_id] = length + len(token_ids) if token_ids else min(written[sequence_id], length)

    def grant_one() -> None:
        sequence_id = any_id()
        slm.engine.grant(sequence_id, draft_until=len(slm.token_ids[sequence_id]) + generator.randint(0, 9))

    def close_one() -> None:
        sequence_id = any_id()
        assert_follows(slm_reference, slm.token_ids[sequence_id], written.pop(sequence_id))
        slm.close(sequence_id)

    commands: list[Callable[[], None]] = [open_one, open_one, rewind_one, rewind_one, grant_one, close_one]
    # Nobody touches this one: it is always due, so that every step comes back.
    slm.open(1, prefixes[0])
    for _ in range(60):
        step = asyncio.ensure_future(slm.engine.step())
        for _command in range(generator.randint(0, 3)):
            for _yield in range(generator.randint(0, 2)):
                await asyncio.sleep(0)
            if not step.done():
                (generator.choice(commands) if written else open_one)()
        slm.take(await step)
    assert_follows(slm_reference, slm.token_ids[1], 50)
    while written:
        close_one()
