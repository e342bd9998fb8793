"""What is answered, whole and streamed: shapes, usage, reasoning and tools."""

import pytest

from tests.unit.gateway.asking import CALL, TEXT, THOUGHT, TOOLS, asked, orchestrator, streamed
from tests.unit.gateway.scripted import MODEL, QUESTION, says, serving


async def test_answer_has_its_message_and_usage() -> None:
    async with serving() as running:
        answer = await asked(running, **QUESTION)
    assert answer["object"] == "chat.completion"
    assert answer["model"] == MODEL
    [choice] = answer["choices"]
    assert choice["message"] == {"role": "assistant", "content": "Hello, world.", "refusal": None}
    assert choice["finish_reason"] == "stop"
    assert answer["usage"] == {
        "prompt_tokens": 7,
        "completion_tokens": 13,
        "total_tokens": 20,
        "llm_tokens": 5,
        "llm_usage_rate": 0.384615,
        "avg_activated_params_b": 2.0,
        "threshold": 0.5,
        "rule": "router:threshold=0.5",
        "rule_version": "1",
        "prompt_tokens_details": {"cached_tokens": 4},
    }


async def test_stream_has_role_first_text_then_reason_and_nothing_else() -> None:
    async with serving() as running:
        chunks = await streamed(running, **QUESTION)
    assert {(chunk["id"], chunk["created"], chunk["model"], chunk["object"]) for chunk in chunks} == {
        (chunks[0]["id"], chunks[0]["created"], MODEL, "chat.completion.chunk")
    }
    assert all("usage" not in chunk for chunk in chunks)
    first, *between, last = [chunk["choices"][0] for chunk in chunks]
    assert first["delta"] == {"role": "assistant", "content": ""}
    assert "".join(choice["delta"]["content"] for choice in between) == "Hello, world."
    assert all(choice["finish_reason"] is None for choice in (first, *between))
    assert (last["delta"], last["finish_reason"]) == ({}, "stop")


async def test_stream_of_plain_text_has_text() -> None:
    async with serving() as running:
        chunks = await streamed(running, TEXT, prompt="Say: ", echo=True)
        whole = await asked(running, TEXT, prompt="Say: ", echo=True)
    texts = [chunk["choices"][0]["text"] for chunk in chunks]
    assert "".join(texts) == whole["choices"][0]["text"] == "Say: Hello, world."
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks][-1] == "stop"
    assert {chunk["object"] for chunk in chunks} == {whole["object"]} == {"text_completion"}


async def test_usage_in_a_stream_comes_once_at_the_end_where_it_was_asked_for() -> None:
    async with serving() as running:
        chunks = await streamed(running, **QUESTION, stream_options={"include_usage": True})
        whole = await asked(running, **QUESTION)
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"] == whole["usage"]
    assert all(chunk["usage"] is None for chunk in chunks[:-1])


async def test_running_totals_end_with_the_whole() -> None:
    async with serving() as running:
        options = {"include_usage": True, "continuous_usage_stats": True}
        chunks = await streamed(running, **QUESTION, stream_options=options)
    totals = [chunk["usage"]["completion_tokens"] for chunk in chunks]
    assert totals == sorted(totals)
    assert chunks[-1]["usage"]["completion_tokens"] == chunks[-2]["usage"]["completion_tokens"] == 13
    assert {chunk["usage"]["prompt_tokens"] for chunk in chunks[1:]} == {7}


async def test_choices_have_their_places_and_the_prompt_counts_once() -> None:
    async with serving() as running:
        answer = await asked(running, **QUESTION, n=3)
        chunks = await streamed(running, **QUESTION, n=3)
        batch = await asked(running, TEXT, prompt=["a", "b"], n=2)
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    assert (answer["usage"]["prompt_tokens"], answer["usage"]["completion_tokens"]) == (7, 39)
    assert [choice["index"] for choice in batch["choices"]] == [0, 1, 2, 3]
    assert (batch["usage"]["prompt_tokens"], batch["usage"]["completion_tokens"]) == (14, 52)
    for index in range(3):
        own = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == index]
        assert own[0]["delta"]["role"] == "assistant"
        assert own[-1]["finish_reason"] == "stop"
        assert "".join(choice["delta"].get("content", "") for choice in own) == "Hello, world."


async def test_tokens_with_their_authors_come_where_they_were_asked_for() -> None:
    async with serving() as running:
        answer = await asked(running, **QUESTION, include_token_sources=True)
        chunks = await streamed(running, **QUESTION, include_token_sources=True)
    tokens = answer["choices"][0]["tokens"]
    assert "".join(token["text"] for token in tokens) == "Hello, world."
    assert {token["source"] for token in tokens} == {"slm", "llm"}
    assert [token for chunk in chunks for token in chunk["choices"][0].get("tokens", [])] == tokens


@pytest.mark.parametrize(
    ("text", "opens", "reasoning", "content"),
    [(THOUGHT, False, "\nhm\n", "\n\nYes."), ("hm</think>Yes.", True, "hm", "Yes."), ("Yes.", False, None, "Yes.")],
)
async def test_reasoning_is_split_off(text: str, opens: bool, reasoning: str | None, content: str) -> None:
    async with serving(orchestrator(says(text, opens=opens))) as running:
        answer = await asked(running, **QUESTION)
        deltas = [chunk["choices"][0]["delta"] for chunk in await streamed(running, **QUESTION)]
    message = answer["choices"][0]["message"]
    assert (message.get("reasoning_content"), message["content"]) == (reasoning, content)
    assert "".join(delta.get("reasoning_content", "") for delta in deltas) == (reasoning or "")
    assert "".join(delta.get("content", "") for delta in deltas) == content


@pytest.mark.parametrize("way", ["request", "setting", "template"])
async def test_reasoning_stays_in_the_text_where_it_is_not_to_be_split(way: str) -> None:
    asks = orchestrator(says(THOUGHT), has_reasoning=way != "template")
    async with serving(asks, split_reasoning=way != "setting") as running:
        answer = await asked(running, **QUESTION, separate_reasoning=way != "request")
    assert answer["choices"][0]["message"]["content"] == THOUGHT


async def test_tool_is_called() -> None:
    async with serving(orchestrator(says(CALL))) as running:
        [choice] = (await asked(running, **QUESTION, tools=TOOLS))["choices"]
        chunks = await streamed(running, **QUESTION, tools=TOOLS)
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] == "On it."
    [call] = choice["message"]["tool_calls"]
    assert call["function"] == {"name": "add", "arguments": '{"a": 1}'}
    [delta] = [call for chunk in chunks for call in chunk["choices"][0]["delta"].get("tool_calls", [])]
    assert (delta["index"], delta["type"], delta["function"]) == (0, "function", call["function"])
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


async def test_call_is_text_where_no_tool_may_be_called() -> None:
    async with serving(orchestrator(says(CALL))) as running:
        answer = await asked(running, **QUESTION, tools=TOOLS, tool_choice="none")
    assert answer["choices"][0]["message"]["content"] == CALL
