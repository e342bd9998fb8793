from __future__ import annotations

import pytest
from trivium.v1 import orchestrator_pb2 as pb

from services.client import LossPolicy, Options, Sampling, chat_request, text_request, tokens_request


def test_requests_without_options_leave_everything_to_the_server() -> None:
    question = pb.ChatMessages(messages=[pb.ChatMessage(role="user", content="What?")])
    assert chat_request("What?") == pb.GenerateRequest(chat=question)
    assert chat_request([{"role": "user", "content": "What?"}]) == pb.GenerateRequest(chat=question)
    assert text_request("x") == pb.GenerateRequest(text="x")
    assert tokens_request([1, 2]) == pb.GenerateRequest(token_ids=pb.TokenIds(token_ids=[1, 2]))


def test_options_that_are_given_reach_the_request_also_where_they_are_zero() -> None:
    request = text_request(
        "x",
        Options(0, threshold=0.0, stop=("\n",), sampling=Sampling(0.5, 3, 0.9, 0), run_ahead_depth=0, request_id="r"),
    )
    assert request.HasField("max_new_tokens")
    assert request.HasField("threshold")
    assert request.HasField("run_ahead_depth")
    assert (list(request.stop), request.sampling.top_k, request.sampling.seed) == (["\n"], 3, 0)
    assert request.request_id == "r"
    assert text_request("x", Options(target_llm_usage=0.0)).WhichOneof("routing") == "target_llm_usage"
    assert text_request("x", Options(target_avg_params_b=6.0)).target_avg_params_b == 6.0


@pytest.mark.parametrize("policy", LossPolicy)
def test_loss_policies_are_those_of_the_contract(policy: LossPolicy) -> None:
    sent = text_request("x", Options(llm_loss_policy=policy)).llm_loss_policy
    assert pb.LlmLossPolicy.Name(sent or pb.LLM_LOSS_POLICY_WAIT) == f"LLM_LOSS_POLICY_{policy.name}"


def test_sampling_without_a_seed_draws_another_one_for_each_request() -> None:
    hot = Options(sampling=Sampling(1.0))
    assert text_request("x", hot).sampling.seed != text_request("x", hot).sampling.seed


def test_sampling_temperature_zero_is_greedy() -> None:
    assert not text_request("x", Options(sampling=Sampling(0.0, 3, 0.9, 11))).HasField("sampling")


def test_options_with_two_ways_to_route_are_refused_naming_both() -> None:
    with pytest.raises(ValueError, match="give threshold or target_llm_usage, not both"):
        Options(threshold=0.5, target_llm_usage=0.1)


def test_chat_carries_tools_and_template_arguments_as_json() -> None:
    chat = chat_request("x", tools=[{"type": "function"}], template_kwargs={"enable_thinking": False}).chat
    assert (chat.tools_json, chat.template_kwargs_json) == ('[{"type": "function"}]', '{"enable_thinking": false}')


def test_rule_reaches_the_request_as_it_is_written() -> None:
    request = text_request("x", Options(rule="random:rate=0.25,seed=7"))
    assert request.rule == pb.RoutingRule(name="random", parameters={"rate": 0.25, "seed": 7.0})
    assert not text_request("x").HasField("rule")
    with pytest.raises(ValueError, match=r"^rule: expected NAME"):
        Options(rule="random:rate")


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"max_new_tokens": 2**31}, "max_new_tokens"),
        ({"max_new_tokens": -(2**40)}, "max_new_tokens"),
        ({"run_ahead_depth": -1}, "run_ahead_depth"),
        ({"run_ahead_depth": 2**32}, "run_ahead_depth"),
    ],
)
def test_options_with_a_number_that_no_request_can_carry_are_refused_naming_it(
    fields: dict[str, int], name: str
) -> None:
    with pytest.raises(ValueError, match=f"^{name}: .* isn't from"):
        Options(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(("top_k", "seed"), [(2**32, None), (-1, None), (0, 2**64), (0, -1)])
def test_sampling_with_a_number_that_no_request_can_carry_is_refused(top_k: int, seed: int | None) -> None:
    with pytest.raises(ValueError, match=r"^(top_k|seed): .* isn't from 0"):
        Sampling(1.0, top_k, 1.0, seed)


def test_largest_numbers_reach_the_request() -> None:
    largest = Options(
        max_new_tokens=2**31 - 1, run_ahead_depth=2**32 - 1, sampling=Sampling(1.0, 2**32 - 1, 1.0, 2**64 - 1)
    )
    request = text_request("x", largest)
    assert (request.max_new_tokens, request.run_ahead_depth) == (2**31 - 1, 2**32 - 1)
    assert (request.sampling.top_k, request.sampling.seed) == (2**32 - 1, 2**64 - 1)
