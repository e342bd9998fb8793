from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trivium.v1 import orchestrator_pb2 as pb

from services.gateway.errors import ApiError
from services.gateway.openai.chat import ChatRequest, plan_chat
from services.gateway.openai.common import with_headers
from services.gateway.openai.completions import CompletionRequest, plan_completion
from services.gateway.openai.plan import Limits, Plan
from services.gateway.openai.policy import IGNORED, REFUSED

LIMITS = Limits(max_n=4, max_prompts=8, default_temperature=1.0)
QUESTION: dict[str, Any] = {"messages": [{"role": "user", "content": "Well?"}]}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
CALL = {"id": "c", "type": "function", "function": {"name": "add", "arguments": "{}"}}


def chat(**fields: Any) -> Plan:
    return plan_chat(QUESTION | fields, "rid", LIMITS)


def completion(**fields: Any) -> Plan:
    return plan_completion({"prompt": "Once"} | fields, "rid", LIMITS)


def refused(make: Any, **fields: Any) -> ApiError:
    with pytest.raises(ApiError) as error:
        make(**fields)
    assert error.value.kind.status == 400
    return error.value


@pytest.mark.parametrize("name", sorted(set(ChatRequest.model_fields) - {"messages"}))
def test_null_of_any_field_of_a_chat_means_absent(name: str) -> None:
    assert chat(**{name: None}) == chat()


@pytest.mark.parametrize("name", sorted(set(CompletionRequest.model_fields) - {"prompt"}))
def test_null_of_any_field_of_a_completion_means_absent(name: str) -> None:
    assert completion(**{name: None}) == completion()


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_field_that_is_refused_passes_at_null_and_its_neutral_values(name: str) -> None:
    make = completion if name in ("logprobs", "suffix", "best_of") else chat
    for value in (None, *REFUSED[name][0]):
        assert make(**{name: value}) == make()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("logprobs", True), ("top_logprobs", 2), ("logit_bias", {"5": 1}), ("presence_penalty", 0.1),
        ("frequency_penalty", -1), ("repetition_penalty", 1.1), ("min_p", 0.05),
        ("response_format", {"type": "json_object"}), ("response_format", {"type": "json_schema", "json_schema": {}}),
        ("functions", [{"name": "f"}]), ("function_call", {"name": "f"}), ("modalities", ["text", "audio"]),
        ("audio", {"voice": "x"}), ("web_search_options", {}), ("reasoning_effort", "low"), ("verbosity", "high"),
        ("guided_json", {}), ("guided_choice", ["a"]), ("guided_regex", "a+"), ("structured_outputs", {"regex": "a"}),
        ("regex", "a"), ("suffix", "x"), ("best_of", 2), ("echo", True), ("min_tokens", 3), ("stop_token_ids", [1]),
        ("documents", [{}]), ("chat_template", "x"), ("skip_special_tokens", False), ("logprobs", "yes"),
    ],
)  # fmt: skip
def test_field_that_would_change_the_answer_is_refused_by_name(name: str, value: object) -> None:
    error = refused(chat, **{name: value})
    assert error.param == name
    assert name in error.message
    assert error.kind.code == "unsupported_parameter"


@pytest.mark.parametrize(("name", "value"), [("logprobs", 0), ("logprobs", 5), ("suffix", "x"), ("best_of", 2)])
def test_field_of_plain_prompts_that_would_change_the_answer_is_refused(name: str, value: object) -> None:
    assert refused(completion, **{name: value}).param == name


@given(st.dictionaries(st.text(max_size=12).filter(lambda name: name not in REFUSED), st.integers(), max_size=5))
def test_fields_that_nobody_knows_are_passed_over(fields: dict[str, int]) -> None:
    unknown = {
        name: value
        for name, value in fields.items()
        if name not in ChatRequest.model_fields and not name.startswith("guided_")
    }
    assert chat(**unknown) == chat()


@pytest.mark.parametrize("name", sorted(IGNORED))
def test_field_that_changes_nothing_is_taken_with_any_value(name: str) -> None:
    assert chat(**{name: {"a": [1]}}) == chat()


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "x"}, "messages"),
        ({"messages": [None]}, "messages[0]"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
        ({"messages": [{"content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "function", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages[0].content[0].type",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]},
            "messages[0].content[0].type",
        ),
        ({"messages": [{"role": "user", "content": "x", "tool_calls": [CALL]}]}, "messages[0].tool_calls"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}]},
            "messages[0].tool_calls[0].function.arguments",
        ),
        ({"messages": [{"role": "assistant", "function_call": {"name": "f"}}]}, "messages[0].function_call"),
        ({"messages": QUESTION["messages"] * 10_001}, "messages"),
        ({"stream": "yes"}, "stream"),
        ({"stream": 1}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"include_usage": "x"}}, "stream_options.include_usage"),
        ({"stream": True, "stream_options": []}, "stream_options"),
        ({"n": 0}, "n"),
        ({"n": 5}, "n"),
        ({"n": True}, "n"),
        ({"n": "1"}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_completion_tokens": 0}, "max_completion_tokens"),
        ({"max_tokens": 1, "max_completion_tokens": 2}, "max_tokens"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"temperature": "1"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.1}, "top_p"),
        ({"top_k": -2}, "top_k"),
        ({"top_k": 2**40}, "top_k"),
        ({"seed": 2**64}, "seed"),
        ({"seed": -(2**63) - 1}, "seed"),
        ({"seed": 1.5}, "seed"),
        ({"stop": ""}, "stop"),
        ({"stop": ["a", ""]}, "stop[1]"),
        ({"stop": ["a", 1]}, "stop[1]"),
        ({"stop": {"a": 1}}, "stop"),
        ({"stop": [str(number) for number in range(17)]}, "stop"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "function": {"name": "not a name"}}]}, "tools[0].function.name"),
        ({"tools": [{"type": "function", "function": {"name": "f", "strict": True}}]}, "tools[0].function.strict"),
        ({"tools": [TOOL], "tool_choice": "required"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "add"}}}, "tool_choice"),
        ({"tools": [TOOL], "parallel_tool_calls": False}, "parallel_tool_calls"),
        ({"chat_template_kwargs": []}, "chat_template_kwargs"),
        ({"continue_final_message": True}, "continue_final_message"),
        ({"continue_final_message": True, "add_generation_prompt": True}, "continue_final_message"),
        ({"add_generation_prompt": False}, "add_generation_prompt"),
        ({"threshold": -1}, "threshold"),
        ({"rule": 3}, "rule"),
        ({"rule": "random:rate"}, "rule"),
        ({"rule": "entropy:threshold=1,threshold=2"}, "rule"),
        ({"threshold": 1e39}, "threshold"),
        ({"target_llm_usage": 1.5}, "target_llm_usage"),
        ({"target_avg_params_b": 0}, "target_avg_params_b"),
        ({"threshold": 0.5, "target_llm_usage": 0.5}, "target_llm_usage"),
        ({"llm_loss_policy": "never"}, "llm_loss_policy"),
        ({"run_ahead_depth": -1}, "run_ahead_depth"),
        ({"run_ahead_depth": 2**32}, "run_ahead_depth"),
        ({"include_token_sources": "x"}, "include_token_sources"),
        ({"separate_reasoning": 1}, "separate_reasoning"),
        ({"model": 5}, "model"),
    ],
)  # fmt: skip
def test_bad_field_of_a_chat_is_named(fields: dict[str, Any], param: str) -> None:
    assert refused(chat, **fields).param == param


@pytest.mark.parametrize(
    ("fields", "same"),
    [
        ({"n": 2.0}, {"n": 2}),
        ({"max_tokens": 5.0}, {"max_tokens": 5}),
        ({"top_k": -1.0}, {"top_k": -1}),
        ({"seed": 2.0**62}, {"seed": 2**62}),
        ({"run_ahead_depth": 3.0}, {"run_ahead_depth": 3}),
        ({"prompt": [1.0, 2]}, {"prompt": [1, 2]}),
        ({"prompt": [[1], [2, 3.0]]}, {"prompt": [[1], [2, 3]]}),
    ],
)
def test_whole_number_counts_however_it_is_written(fields: dict[str, Any], same: dict[str, Any]) -> None:
    assert completion(**fields) == completion(**same)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt[0]"),
        ({"prompt": [1, "a"]}, "prompt[1]"),
        ({"prompt": ["a", 1]}, "prompt[1]"),
        ({"prompt": [[1], [2, -3]]}, "prompt[1][1]"),
        ({"prompt": [2**32]}, "prompt[0]"),
        ({"prompt": [1.5]}, "prompt[0]"),
        ({"prompt": [1, True]}, "prompt[1]"),
        ({"prompt": {"a": 1}}, "prompt"),
        ({"prompt": ["a"] * 9}, "prompt"),
        ({"prompt": ["a"] * 3, "n": 3}, "prompt"),
        ({"prompt": [1], "echo": True}, "echo"),
    ],
)
def test_bad_prompt_is_named(fields: dict[str, Any], param: str) -> None:
    assert refused(completion, **fields).param == param


def test_parts_of_text_are_joined() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    [request] = chat(messages=[{"role": "user", "content": parts}]).requests
    assert request.chat.messages[0].content == "ab"


def test_messages_arrive_with_all_that_they_say() -> None:
    [request] = chat(
        messages=[
            {"role": "developer", "content": "d", "name": "n"},
            {"role": "assistant", "content": None, "reasoning_content": "r", "tool_calls": [CALL]},
            {"role": "tool", "content": "3", "tool_call_id": "c"},
        ],
        tools=[TOOL],
        chat_template_kwargs={"enable_thinking": False},
    ).requests
    developer, assistant, tool = request.chat.messages
    assert (developer.role, developer.content, developer.name) == ("developer", "d", "n")
    assert (assistant.content, assistant.reasoning_content) == ("", "r")
    assert '"add"' in assistant.tool_calls_json
    assert (tool.role, tool.tool_call_id) == ("tool", "c")
    assert '"add"' in request.chat.tools_json
    assert request.chat.template_kwargs_json == '{"enable_thinking": false}'


@pytest.mark.parametrize("choice", ["none", "auto", None])
def test_tools_are_shown_unless_they_are_not_to_be_called(choice: str | None) -> None:
    plan = chat(tools=[TOOL], tool_choice=choice)
    assert plan.shows_tools == (choice != "none")
    assert bool(plan.requests[0].chat.tools_json) == plan.shows_tools


def test_last_message_is_gone_on_with() -> None:
    messages = [*QUESTION["messages"], {"role": "assistant", "content": "It "}]
    [request] = chat(messages=messages, continue_final_message=True, add_generation_prompt=False).requests
    assert request.chat.continue_final_message


def test_options_reach_the_orchestrator() -> None:
    [request] = chat(
        max_completion_tokens=2**40, temperature=0.5, top_p=0.9, top_k=5, seed=-1, stop="END", threshold=0.25,
        llm_loss_policy="fail", run_ahead_depth=0, rule="margin",
    ).requests  # fmt: skip
    assert request.rule == pb.RoutingRule(name="margin")
    assert request.max_new_tokens == 2**31 - 1
    assert (request.sampling.temperature, request.sampling.top_k, request.sampling.seed) == (0.5, 5, 2**64 - 1)
    assert (list(request.stop), request.threshold, request.run_ahead_depth) == (["END"], 0.25, 0)
    assert request.llm_loss_policy == pb.LLM_LOSS_POLICY_FAIL


def test_temperature_0_is_greedy_and_absent_is_the_setting() -> None:
    assert not chat(temperature=0).requests[0].HasField("sampling")
    assert chat().requests[0].sampling.temperature == 1
    assert not chat().requests[0].HasField("max_new_tokens")


def seeds(plan: Plan) -> list[int]:
    return [request.sampling.seed for request in plan.requests]


@given(st.integers(-(2**63), 2**64 - 1))
def test_same_seed_draws_the_same_answers_which_differ(seed: int) -> None:
    first = seeds(plan_chat(QUESTION | {"seed": seed, "n": 3}, "one", LIMITS))
    assert first == seeds(plan_chat(QUESTION | {"seed": seed, "n": 3}, "other", LIMITS))
    assert len(set(first)) == 3
    assert first[0] == seed % 2**64


def test_no_seed_draws_another_answer_each_time_and_the_same_when_gone_on_with() -> None:
    assert seeds(chat(n=2)) == seeds(chat(n=2))
    assert seeds(chat()) != seeds(plan_chat(QUESTION, "another", LIMITS))


@pytest.mark.parametrize(
    ("prompt", "asked"),
    [
        ("a", ["a"]),
        ("", [""]),
        (["a"], ["a"]),
        (["a", "b"], ["a", "b"]),
        ([1, 2, 3], [[1, 2, 3]]),
        ([[1], [2, 3]], [[1], [2, 3]]),
    ],
)
def test_prompts_come_in_their_order_n_for_each(prompt: Any, asked: list[Any]) -> None:
    plan = completion(prompt=prompt, n=2, seed=1)
    sent = [
        request.text if request.HasField("text") else list(request.token_ids.token_ids) for request in plan.requests
    ]
    assert sent == [each for each in asked for _ in range(2)]
    assert len({request.request_id for request in plan.requests}) == len(sent)
    # A prompt's answers have the same noise wherever it stands.
    assert seeds(plan) == seeds(completion(prompt="x", n=2, seed=1)) * len(asked)


def test_best_of_n_is_n() -> None:
    assert len(completion(n=3, best_of=3).requests) == 3


def test_headers_stand_for_fields_that_the_body_leaves_out() -> None:
    headers = {"X-Trivium-Threshold": "0.5", "X-Trivium-Run-Ahead-Depth": "3", "X-Trivium-LLM-Loss-Policy": "fail"}
    assert with_headers({}, headers) == {"threshold": 0.5, "run_ahead_depth": 3, "llm_loss_policy": "fail"}
    assert with_headers({"target_llm_usage": 0.1}, headers)["target_llm_usage"] == 0.1
    assert "threshold" not in with_headers({"target_llm_usage": 0.1}, headers)
    with pytest.raises(ApiError) as error:
        with_headers({}, {"X-Trivium-Threshold": "high"})
    assert error.value.param == "X-Trivium-Threshold"
