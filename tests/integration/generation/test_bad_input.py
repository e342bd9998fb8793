"""Requests that can't be served get a code and the field's name, and the pair goes on serving."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from trivium.v1 import common_pb2, orchestrator_pb2

from evaluation.exactness import Reference
from tests.integration.harness.completions import assert_is_reference, client, generate, request_for, status_of
from tests.integration.harness.pair import RunningPair, front_info

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

pb = orchestrator_pb2
INVALID, OUT_OF_RANGE = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.OUT_OF_RANGE


def chat(*messages: tuple[str, str]) -> pb.ChatMessages:
    return pb.ChatMessages(messages=[pb.ChatMessage(role=role, content=content) for role, content in messages])


def hello_with(*, message: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    """A chat that would be served, but for the fields."""
    messages = [pb.ChatMessage(role="user", content="hello", **(message or {}))]
    return {"chat": pb.ChatMessages(messages=messages, **fields)}


def ids(*token_ids: int) -> pb.TokenIds:
    return pb.TokenIds(token_ids=token_ids)


CASES: list[tuple[dict[str, Any], grpc.StatusCode, str]] = [
    ({}, INVALID, "prompt"),
    ({"text": ""}, INVALID, "text"),
    ({"chat": chat()}, INVALID, "chat.messages"),
    ({"chat": chat(("wizard", "hello"))}, INVALID, "chat.messages[0].role"),
    ({"chat": chat(("user", "hello"), ("tool", "x"))}, INVALID, "chat.messages[1].role"),
    ({"chat": chat(("user", ""))}, INVALID, "chat.messages[0].content"),
    (hello_with(message={"tool_calls_json": "[]"}), INVALID, "chat.messages[0].tool_calls_json"),
    (hello_with(message={"reasoning_content": "x"}), INVALID, "chat.messages[0].reasoning_content"),
    (hello_with(message={"tool_call_id": "x"}), INVALID, "chat.messages[0].tool_call_id"),
    (hello_with(message={"name": "x" * 100_000}), OUT_OF_RANGE, "chat"),
    (hello_with(tools_json="[]"), INVALID, "chat.tools_json"),
    (hello_with(template_kwargs_json="{"), INVALID, "chat.template_kwargs_json"),
    (hello_with(template_kwargs_json='{"a": NaN}'), INVALID, "chat.template_kwargs_json"),
    (hello_with(template_kwargs_json='{"messages": []}'), INVALID, "chat.template_kwargs_json"),
    (hello_with(template_kwargs_json='{"a": ' + "[" * 5000), INVALID, "chat.template_kwargs_json"),
    (hello_with(continue_final_message=True), INVALID, "chat.continue_final_message"),
    ({"token_ids": ids()}, INVALID, "token_ids"),
    ({"token_ids": ids(5, 10_000_000)}, INVALID, "token_ids"),
    ({"token_ids": ids(*[5] * 5000)}, OUT_OF_RANGE, "token_ids"),
    ({"text": "word " * 5000}, OUT_OF_RANGE, "text"),
    ({"text": "x", "max_new_tokens": 0}, INVALID, "max_new_tokens"),
    ({"text": "x", "max_new_tokens": -1}, INVALID, "max_new_tokens"),
    ({"text": "x", "threshold": float("nan")}, INVALID, "threshold"),
    ({"text": "x", "threshold": -0.1}, INVALID, "threshold"),
    ({"text": "x", "threshold": float("inf")}, INVALID, "threshold"),
    ({"text": "x", "target_llm_usage": float("nan")}, INVALID, "target_llm_usage"),
    ({"text": "x", "target_llm_usage": 1.5}, INVALID, "target_llm_usage"),
    ({"text": "x", "target_avg_params_b": 0.00009}, INVALID, "target_avg_params_b"),
    ({"text": "x", "target_avg_params_b": float("inf")}, INVALID, "target_avg_params_b"),
    ({"text": "x", "stop": [""]}, INVALID, "stop[0]"),
    ({"text": "x", "stop": ["a"] * 17}, INVALID, "stop"),
    ({"text": "x", "request_id": "x" * 129}, INVALID, "request_id"),
    ({"text": "x", "resume_from": 1}, INVALID, "resume_from"),
    ({"text": "x", "run_ahead_depth": 1_000_000}, INVALID, "run_ahead_depth"),
    ({"text": "x", "sampling": common_pb2.SamplingParams(temperature=-1)}, INVALID, "sampling.temperature"),
    ({"text": "x", "sampling": common_pb2.SamplingParams(temperature=1, top_p=2)}, INVALID, "sampling.top_p"),
]


@pytest.mark.parametrize(("fields", "code", "field"), CASES, ids=lambda value: str(value)[:30])
async def test_bad_request_is_refused_by_the_field_name(
    pair: RunningPair, fields: dict[str, Any], code: grpc.StatusCode, field: str
) -> None:
    async with client(pair.front) as stub:
        error = await status_of(stub.Generate(pb.GenerateRequest(**fields)))
    assert error.code() == code
    assert (error.details() or "").startswith(f"{field}:")


async def test_both_prompts_on_the_wire_leave_the_last_one(pair: RunningPair) -> None:
    """Protocol buffers can't carry two members of a oneof: what arrives is one prompt, whatever was sent."""
    both = (
        pb.GenerateRequest(text="x").SerializeToString() + pb.GenerateRequest(token_ids=ids(5, 6)).SerializeToString()
    )
    request = pb.GenerateRequest.FromString(both)
    request.max_new_tokens = 1
    async with client(pair.front) as stub:
        assert (await generate(stub, request)).usage.num_prompt_tokens == 2


async def test_message_over_the_size_limit_is_refused(pair: RunningPair) -> None:
    async with client(pair.front) as stub:
        error = await status_of(stub.Generate(pb.GenerateRequest(text="x" * (17 * 2**20))))
    assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_bad_requests_leave_the_pair_serving_and_nothing_behind(
    pair: RunningPair, references: list[Reference]
) -> None:
    async with client(pair.front) as stub:
        for fields, code, _ in CASES:
            assert (await status_of(stub.Generate(pb.GenerateRequest(**fields)))).code() == code
        assert (await front_info(pair.front)).load.num_active_requests == 0
        assert_is_reference(await generate(stub, request_for(references[0])), references[0])
