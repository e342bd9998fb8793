from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trivium.v1 import orchestrator_pb2 as pb

from services.client.continuity import BrokenStream, Continuity
from tests.unit.client.fake_orchestrator import last_message, message


def _cut(token_ids: tuple[int, ...], draw: random.Random) -> list[pb.GenerateResponse]:
    """Tokens in messages of random lengths, and the last one."""
    messages, rest = [], token_ids
    while rest:
        length = draw.randrange(len(rest) + 1)
        messages.append(message(rest[:length]))
        rest = rest[length:]
    return messages


def _take_all(continuity: Continuity, *responses: pb.GenerateResponse) -> None:
    for response in responses:
        continuity.take(response)


@given(num_tokens=st.integers(0, 40), num_breaks=st.integers(0, 6), seed=st.integers(0, 2**32))
def test_stream_over_any_number_of_calls_has_every_token_once(num_tokens: int, num_breaks: int, seed: int) -> None:
    draw = random.Random(seed)
    answer = tuple(range(1, num_tokens + 1))
    continuity = Continuity(pb.GenerateRequest(max_new_tokens=max(num_tokens, 1)))
    got: list[int] = []
    prompts = 0
    for call in range(num_breaks + 1):
        messages = [*_cut(answer[continuity.num_tokens :], draw), last_message(num_tokens)]
        messages[0].prompt.num_tokens = 7
        arrived = messages if call == num_breaks else messages[: draw.randrange(len(messages))]
        for each in arrived:
            taken = continuity.take(each)
            got += taken.token_ids
            prompts += taken.HasField("prompt")
    continuity.end()
    assert tuple(got) == answer
    assert prompts == 1
    assert continuity.num_tokens == num_tokens


@given(
    num_tokens=st.integers(2, 40),
    at=st.integers(0, 39),
    shift=st.integers(-5, 5).filter(bool),
    limited=st.booleans(),
)
def test_server_that_resumes_elsewhere_than_asked_is_found_out(
    num_tokens: int, at: int, shift: int, limited: bool
) -> None:
    at %= num_tokens
    start = min(max(at + shift, 0), num_tokens)
    if start == at:
        return
    answer = tuple(range(num_tokens))
    request = pb.GenerateRequest(max_new_tokens=num_tokens) if limited else pb.GenerateRequest()
    continuity = Continuity(request)
    continuity.take(message(answer[:at]))
    with pytest.raises(BrokenStream, match="arrived"):
        _take_all(continuity, message(answer[start:]), last_message(num_tokens))


def test_stream_of_a_caller_that_resumes_counts_from_what_it_has() -> None:
    continuity = Continuity(pb.GenerateRequest(resume_from=3))
    continuity.take(message((4, 5)))
    continuity.take(last_message(5))
    assert continuity.finished


@pytest.mark.parametrize("extra", [message((3,)), last_message(2)])
def test_message_after_the_last_one_is_refused(extra: pb.GenerateResponse) -> None:
    continuity = Continuity(pb.GenerateRequest())
    continuity.take(message((1, 2)))
    continuity.take(last_message(2))
    with pytest.raises(BrokenStream, match="after the last one"):
        continuity.take(extra)


def test_end_without_last_message_is_refused() -> None:
    continuity = Continuity(pb.GenerateRequest())
    continuity.take(message((1, 2)))
    with pytest.raises(BrokenStream, match="ended without its last message"):
        continuity.end()


def test_message_that_misses_an_author_is_refused() -> None:
    odd = message((1, 2))
    del odd.sources[1]
    with pytest.raises(BrokenStream, match="whose"):
        Continuity(pb.GenerateRequest()).take(odd)
