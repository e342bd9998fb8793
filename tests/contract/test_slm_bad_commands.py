"""What every SLM engine refuses, and that nothing changes by it."""

from __future__ import annotations

import pytest

from services.common.errors import (
    ContextLengthExceeded,
    InvalidRequest,
    PrefixConflict,
    PrefixNotFound,
    TriviumError,
)
from tests.contract.conftest import Prompts
from tests.contract.drivers import SlmDriver
from tests.contract.reference import Reference, assert_follows
from tests.contract.tiny_models import CONTEXT_LEN

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.mark.parametrize(
    ("length", "token_id", "error", "message"),
    [
        (0, 0, InvalidRequest, "token_ids"),
        (5, 1_000_000, InvalidRequest, "token_ids: 1000000"),
        (5, -1, InvalidRequest, "token_ids: -1"),
        (CONTEXT_LEN, 1, ContextLengthExceeded, "token_ids"),
    ],
)
async def test_open_bad_prefix_names_the_field(
    slm: SlmDriver, length: int, token_id: int, error: type[TriviumError], message: str
) -> None:
    with pytest.raises(error, match=message):
        slm.open(1, [token_id] * length)
    assert slm.engine.load.num_active_sequences == 0


async def test_open_of_an_open_sequence_is_an_invalid_request(slm: SlmDriver, prompt: Prompts) -> None:
    slm.open(1, prompt(5))
    with pytest.raises(InvalidRequest, match="sequence_id: 1"):
        slm.open(1, prompt(5))


@pytest.mark.parametrize(
    ("length", "token_ids", "error", "message"),
    [
        (6, [], PrefixConflict, "length: 6"),
        (0, [], InvalidRequest, "length"),
        (-1, [1, 2], InvalidRequest, "length"),
        (3, [1_000_000], InvalidRequest, "token_ids: 1000000"),
    ],
)
async def test_rewind_bad_argument_names_the_field_and_changes_nothing(
    slm: SlmDriver,
    slm_reference: Reference,
    prompt: Prompts,
    length: int,
    token_ids: list[int],
    error: type[TriviumError],
    message: str,
) -> None:
    slm.open(1, prompt(5), draft_until=5)
    with pytest.raises(error, match=message):
        slm.engine.rewind(1, length=length, token_ids=token_ids, epoch=2, draft_until=20)
    slm.engine.grant(1, draft_until=8)
    await slm.until_len(1, 8)
    assert_follows(slm_reference, slm.token_ids[1], 5)


async def test_rewind_beyond_what_is_held_says_how_much_is_held(slm: SlmDriver, prompt: Prompts) -> None:
    slm.open(1, prompt(5), draft_until=5)
    with pytest.raises(PrefixConflict) as caught:
        slm.engine.rewind(1, length=9, token_ids=[1], epoch=2, draft_until=20)
    assert caught.value.need_from == 5


async def test_unknown_sequence_is_not_found_by_rewind_and_ignored_by_grant_and_close(slm: SlmDriver) -> None:
    with pytest.raises(PrefixNotFound, match="sequence_id: 99"):
        slm.engine.rewind(99, length=0, token_ids=[1], epoch=2, draft_until=20)
    slm.engine.grant(99, draft_until=5)
    slm.engine.close(99)
