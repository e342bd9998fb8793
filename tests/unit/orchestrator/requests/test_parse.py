import asyncio
import math
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from trivium.v1 import common_pb2, orchestrator_pb2

from services.common.errors import ContextLengthExceeded, InvalidRequest
from services.common.model_sizes import ModelSizes
from services.engines.base import GREEDY, SamplingParams
from services.orchestrator.pair.budget import Budget, Sweep
from services.orchestrator.requests.parse import GenerationLimits, parse_request
from services.orchestrator.requests.prompt import PromptReader
from services.orchestrator.requests.task import GenerationTask, LlmLossPolicy
from tests.rules import router_rule

START, END = "<|start|>", "<|end|>"
TEMPLATE = (
    "{% if messages[0].role == 'assistant' %}{{ raise_exception('the assistant spoke first') }}{% endif %}"
    "{% for message in messages %}<|start|>{{ message.role[0] + message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|start|>a{% endif %}"
)


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, two special tokens, and a beginning-of-sequence token that is added unless forbidden."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({char: i for i, char in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([START, END])
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, bos_token=START, eos_token=END, chat_template=TEMPLATE
    )


TOKENIZER = make_tokenizer()
BUDGET = Budget(0.5, ModelSizes(1_500_000_000, 0, 32_000_000_000), Sweep(((0.75, 0.1), (0.25, 0.3))))
LIMITS = GenerationLimits(
    context_len=32,
    vocab_size=300,
    choose_rule=lambda request: router_rule(BUDGET.threshold(request)),
    max_run_ahead_depth=16,
)


PROMPTS = PromptReader(TOKENIZER)


def run(**fields: Any) -> GenerationTask:
    return asyncio.run(parse_request(orchestrator_pb2.GenerateRequest(**fields), PROMPTS, LIMITS).task())


@pytest.mark.parametrize(
    ("name", "policy"),
    [
        ("UNSPECIFIED", LlmLossPolicy.WAIT),
        ("WAIT", LlmLossPolicy.WAIT),
        ("SLM_ONLY", LlmLossPolicy.SLM_ONLY),
        ("FAIL", LlmLossPolicy.FAIL),
    ],
)
def test_llm_loss_policy_is_read_and_waits_unless_said_otherwise(name: str, policy: LlmLossPolicy) -> None:
    value = orchestrator_pb2.LlmLossPolicy.Value(f"LLM_LOSS_POLICY_{name}")
    assert run(text="a", llm_loss_policy=value).llm_loss_policy is policy


def chat(*messages: tuple[str, str]) -> orchestrator_pb2.ChatMessages:
    return orchestrator_pb2.ChatMessages(
        messages=[orchestrator_pb2.ChatMessage(role=role, content=content) for role, content in messages]
    )


def ids(*token_ids: int) -> orchestrator_pb2.TokenIds:
    return orchestrator_pb2.TokenIds(token_ids=token_ids)


def sampling(**fields: Any) -> common_pb2.SamplingParams:
    return common_pb2.SamplingParams(**fields)


def decoded(task: GenerationTask) -> str:
    return str(TOKENIZER.decode(list(task.prompt_token_ids)))


def test_parse_least_request_takes_defaults() -> None:
    task = run(text="hello")

    assert decoded(task) == "hello"
    assert len(task.request_id) == 32
    assert task == GenerationTask(task.request_id, task.prompt_token_ids, max_new_tokens=27, rule=router_rule(0.5))
    assert (task.sampling, task.stop, task.run_ahead_depth, task.resume_from) == (GREEDY, (), None, None)


def test_parse_full_request_keeps_every_value() -> None:
    task = run(
        request_id="r-1",
        token_ids=ids(0, 299),
        max_new_tokens=5,
        threshold=0.0,
        stop=["\n", "ab"],
        sampling=sampling(temperature=0.5, top_k=3, top_p=0.25, seed=2**64 - 1),
        run_ahead_depth=0,
        resume_from=5,
    )

    assert task == GenerationTask(
        request_id="r-1",
        prompt_token_ids=(0, 299),
        max_new_tokens=5,
        rule=router_rule(0.0),
        stop=("\n", "ab"),
        sampling=SamplingParams(0.5, 3, 0.25, 2**64 - 1),
        run_ahead_depth=0,
        resume_from=5,
    )


def test_parse_requests_without_id_get_different_ids() -> None:
    assert run(text="a").request_id != run(text="a").request_id


def test_parse_chat_is_rendered_up_to_the_assistants_turn() -> None:
    task = run(chat=chat(("system", "x"), ("user", "hi"), ("assistant", ""), ("user", "é")))

    assert decoded(task) == f"{START}sx{END}{START}uhi{END}{START}a{END}{START}ué{END}{START}a"


def test_parse_max_new_tokens_beyond_the_context_is_cut_to_it() -> None:
    assert run(text="a" * 31, max_new_tokens=100).max_new_tokens == 1


@pytest.mark.parametrize("temperature", [0.0, 1e-30, 9e-5])
def test_parse_temperature_near_zero_is_greedy(temperature: float) -> None:
    assert run(text="a", sampling=sampling(temperature=temperature, seed=3)).sampling == GREEDY


def test_parse_top_p_zero_means_unset() -> None:
    assert run(text="a", sampling=sampling(temperature=1)).sampling == SamplingParams(temperature=1, top_p=1)


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("prompt", {}),
        ("text", {"text": ""}),
        ("token_ids", {"token_ids": ids()}),
        ("token_ids", {"token_ids": ids(1, 300)}),
        ("token_ids", {"token_ids": ids(2**32 - 1)}),
        ("chat.messages", {"chat": chat()}),
        ("chat.messages[1].role", {"chat": chat(("user", "a"), ("tool", "b"))}),
        ("chat.messages[0].role", {"chat": chat(("", "a"))}),
        ("chat.messages", {"chat": chat(("assistant", "a"))}),
        ("chat.messages[0].content", {"chat": chat(("user", ""))}),
        ("max_new_tokens", {"max_new_tokens": 0}),
        ("max_new_tokens", {"max_new_tokens": -1}),
        ("threshold", {"threshold": math.nan}),
        ("threshold", {"threshold": math.inf}),
        ("threshold", {"threshold": -math.inf}),
        ("threshold", {"threshold": -0.01}),
        ("target_llm_usage", {"target_llm_usage": math.nan}),
        ("target_llm_usage", {"target_llm_usage": -0.01}),
        ("target_llm_usage", {"target_llm_usage": 1.01}),
        ("target_avg_params_b", {"target_avg_params_b": math.nan}),
        ("target_avg_params_b", {"target_avg_params_b": 1.49}),
        ("target_avg_params_b", {"target_avg_params_b": 33.6}),
        ("stop[1]", {"stop": ["a", ""]}),
        ("stop[0]", {"stop": ["a" * 1025]}),
        ("stop", {"stop": [str(i) for i in range(17)]}),
        ("request_id", {"request_id": "r" * 129}),
        ("request_id", {"request_id": "a\nb"}),
        ("request_id", {"request_id": "a\x00"}),
        ("request_id", {"request_id": "\u202e"}),
        ("resume_from", {"resume_from": 1}),
        ("resume_from", {"resume_from": 0}),
        ("resume_from", {"resume_from": 4, "request_id": "r", "max_new_tokens": 3}),
        ("run_ahead_depth", {"run_ahead_depth": 17}),
        ("llm_loss_policy", {"llm_loss_policy": 9}),
        ("sampling.temperature", {"sampling": sampling(temperature=-1)}),
        ("sampling.temperature", {"sampling": sampling(temperature=math.nan)}),
        ("sampling.temperature", {"sampling": sampling(temperature=math.inf)}),
        ("sampling.top_p", {"sampling": sampling(top_p=1.5)}),
        ("sampling.top_p", {"sampling": sampling(top_p=-0.5)}),
        ("sampling.top_p", {"sampling": sampling(top_p=math.nan)}),
    ],
)
def test_parse_bad_field_raises_invalid_request_naming_it(field: str, fields: dict[str, Any]) -> None:
    prompt: dict[str, Any] = (
        {} if field == "prompt" or {"text", "chat", "token_ids"} & fields.keys() else {"text": "a"}
    )

    with pytest.raises(InvalidRequest) as raised:
        run(**prompt, **fields)

    assert str(raised.value).startswith(f"{field}: ")


@pytest.mark.parametrize("length", [32, 33, 4000])
@pytest.mark.parametrize("field", ["text", "token_ids", "chat"])
def test_parse_prompt_without_room_raises_context_length_exceeded(field: str, length: int) -> None:
    prompts: dict[str, Any] = {
        "text": "a" * length,
        "token_ids": ids(*[1] * length),
        "chat": chat(("user", "a" * length)),
    }

    with pytest.raises(ContextLengthExceeded, match=f"^{field}: .* 32"):
        run(**{field: prompts[field]})


def test_parse_values_at_their_limits_are_accepted() -> None:
    stop = [str(i) for i in range(16)]
    task = run(text="a" * 31, request_id="é" * 128, stop=stop, run_ahead_depth=16, threshold=1e30, resume_from=1)

    assert (len(task.stop), task.run_ahead_depth, task.max_new_tokens, task.resume_from) == (16, 16, 1, 1)


def test_parse_chat_without_template_raises_invalid_request() -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = None
    request = orchestrator_pb2.GenerateRequest(chat=chat(("user", "a")))

    with pytest.raises(InvalidRequest, match=r"^chat: .*template"):
        parse_request(request, PromptReader(tokenizer), LIMITS)


@pytest.mark.parametrize(
    "changes",
    [
        {"text": "b"},
        {"text": "aa"},
        {"threshold": 0.25},
        {"stop": ["y"]},
        {"stop": ["x", "y"]},
        {"sampling": sampling(temperature=1, seed=1)},
        {"sampling": sampling(temperature=1, seed=2)},
        {"sampling": sampling(temperature=2, seed=1)},
    ],
)
def test_fingerprint_of_a_request_for_other_tokens_differs(changes: dict[str, Any]) -> None:
    base = {"text": "a", "stop": ["x"], "sampling": sampling(temperature=1)}

    assert run(**(base | changes)).fingerprint() != run(**base).fingerprint()


def test_fingerprint_of_a_target_is_that_of_its_threshold() -> None:
    target, threshold = run(text="a", target_llm_usage=0.2), run(text="a", threshold=0.5)

    assert target.fingerprint() == threshold.fingerprint()
    assert target.fingerprint() != run(text="a", target_llm_usage=0.21).fingerprint()


def test_fingerprint_of_the_same_request_resumed_is_the_same() -> None:
    first = run(text="a", stop=["x"], run_ahead_depth=2)
    resumed = run(token_ids=ids(*first.prompt_token_ids), stop=["x"], request_id="r", resume_from=3, max_new_tokens=5)

    assert first.fingerprint() == resumed.fingerprint()
    assert len(first.fingerprint()) == 16
