from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trivium.v1 import orchestrator_pb2 as pb

from services.gateway.openai.choice import Choice, Delta
from tests.unit.gateway.scripted import messages

PIECES = st.sampled_from(
    ["<think>", "</think>", "a", "bc", " ", "\n", "<tool_call>", '{"name": "f"}', "</tool_call>", "<", "思"]
)
TEXTS = st.lists(PIECES, max_size=10).map("".join)


def choice(**options: Any) -> Choice:
    return Choice(0, "r", splits_reasoning=True, parses_tools=True, includes_tokens=True, **options)


def run(one: Choice, stream: list[pb.GenerateResponse]) -> list[Delta]:
    return [one.take(message) for message in stream]


def joined(deltas: list[Delta]) -> tuple[str, str, list[dict[str, Any]], list[dict[str, Any]]]:
    return (
        "".join(delta.reasoning for delta in deltas),
        "".join(delta.content for delta in deltas),
        [call for delta in deltas for call in delta.calls],
        [token for delta in deltas for token in delta.tokens],
    )


@given(TEXTS, st.integers(1, 9), st.booleans())
def test_deltas_join_to_the_whole(text: str, size: int, opens: bool) -> None:
    one = choice()
    reasoning, content, calls, tokens = joined(run(one, messages(text, size=size, opens=opens)))
    assert (reasoning, content) == (one.reasoning, one.content)
    assert [call["id"] for call in calls] == [call["id"] for call in one.calls]
    assert tokens == one.tokens
    assert "".join(token["text"] for token in tokens) == text


@given(TEXTS, st.integers(1, 9), st.integers(1, 9), st.integers(0, 40), st.booleans())
def test_stream_gone_on_with_after_any_event_joins_to_the_whole(
    text: str, size: int, other_size: int, num_read: int, opens: bool
) -> None:
    stream = messages(text, size=size, opens=opens)
    first = choice()
    before = run(first, stream[: num_read % (len(stream) + 1)])
    after = run(choice(num_known=first.place), messages(text, size=other_size, opens=opens))
    assert joined([*before, *after]) == joined(run(choice(), stream))
    assert after[-1].finish_reason == run(choice(), stream)[-1].finish_reason


def test_echo_comes_first_and_once() -> None:
    one = Choice(0, "r", echo="Say: ")
    deltas = run(one, messages("Hello"))
    assert [delta.content for delta in deltas] == ["Say: Hel", "lo"]
    assert one.content == "Say: Hello"


@pytest.mark.parametrize(
    ("reason", "text", "expected"),
    [
        (pb.FINISH_REASON_STOP, "a", "stop"),
        (pb.FINISH_REASON_LENGTH, "a", "length"),
        (pb.FINISH_REASON_STOP, '<tool_call>{"name": "f"}</tool_call>', "tool_calls"),
        (pb.FINISH_REASON_LENGTH, '<tool_call>{"name": "f"}</tool_call>', "length"),
    ],
)
def test_reason_of_the_end(reason: int, text: str, expected: str) -> None:
    assert run(choice(), messages(text, reason=reason))[-1].finish_reason == expected


def test_tokens_tell_their_authors() -> None:
    one = choice()
    run(one, messages("abcd"))
    assert [token["source"] for token in one.tokens] == ["llm", "slm", "slm", "llm"]
    assert one.tokens[0] == {"id": 97, "text": "a", "source": "llm", "divergence_probability": 0.25}
    assert one.num_llm_tokens == 2
