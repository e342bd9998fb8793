"""OpenAI's contract against a real pair, case by case, each of them streamed and not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from tests.integration.gateway.door import MODEL, TIMEOUT_S, Answer, Gateway, ask

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

Q = "Tom starts with 14 apples. On Monday he wins 8 apples. How many apples does Tom have in the end?"
USER = {"role": "user", "content": Q}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
Fields = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """A request, and what is expected of its answer."""

    name: str
    fields: Fields = field(default_factory=dict)
    status: int = 200
    param: str | None = None
    code: str | None = None
    num_tokens: int | None = None
    finish: str | None = None
    num_choices: int = 1
    holds: Callable[[Answer], bool] = lambda answer: True
    headers: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name


def says(text: str) -> Callable[[Answer], bool]:
    return lambda answer: text in answer.texts[0]


def rate(low: float, high: float) -> Callable[[Answer], bool]:
    return lambda answer: low <= answer.usage["llm_usage_rate"] <= high


def talks(*messages: Fields, **fields: Any) -> Fields:
    return {"messages": list(messages)} | fields


def differ(answer: Answer) -> bool:
    return len(set(answer.texts)) == len(answer.texts)


GREEDY = {"temperature": 0, "max_tokens": 6}
HOT = {"temperature": 2, "max_tokens": 6}

CHAT = [
    Case("a question is answered", {"temperature": 0}, finish="stop", holds=says("The answer is")),
    Case("null means absent everywhere", GREEDY | dict.fromkeys(
        ["n", "stop", "seed", "top_p", "top_k", "tools", "tool_choice", "logprobs", "top_logprobs", "logit_bias",
         "presence_penalty", "frequency_penalty", "response_format", "user", "threshold", "model", "metadata",
         "functions", "max_completion_tokens", "parallel_tool_calls", "chat_template_kwargs"])),
    Case("penalties of 0 are neutral", GREEDY | {"presence_penalty": 0, "frequency_penalty": 0.0}),
    Case("a repetition penalty of 1 is neutral", GREEDY | {"repetition_penalty": 1.0, "min_p": 0}),
    Case("an empty logit_bias is neutral", GREEDY | {"logit_bias": {}}),
    Case("no tools are neutral", GREEDY | {"tools": [], "tool_choice": "none"}),
    Case("a format of text is neutral", GREEDY | {"response_format": {"type": "text"}}),
    Case("no logprobs are neutral", GREEDY | {"logprobs": False, "top_logprobs": 0}),
    Case("who asks changes nothing", GREEDY | {"user": "u", "metadata": {"a": "b"}, "store": True}),
    Case("what nobody knows is passed over", GREEDY | {"ignore_eos": True, "xyz": [1]}),
    Case("the model may be named", GREEDY | {"model": MODEL}),
    Case("parts of text are joined", GREEDY | talks({"role": "user", "content": [
        {"type": "text", "text": Q[:20]}, {"type": "text", "text": Q[20:]}]})),
    Case("a system message is taken", GREEDY | talks({"role": "system", "content": "Be brief."}, USER)),
    Case("a developer's message is taken", GREEDY | talks({"role": "developer", "content": "Be brief."}, USER)),
    Case("a name is taken", GREEDY | talks(USER | {"name": "tom"})),
    Case("a conversation is taken", GREEDY | talks(USER, {"role": "assistant", "content": "22."}, USER)),
    Case("an assistant may have said nothing", GREEDY | talks(USER, {"role": "assistant", "content": None}, USER)),
    Case("a word of NUL, emoji and CJK is text", GREEDY | talks({"role": "user", "content": "\0 😀 汉字 \u2028"})),
    Case("the last message is gone on with", GREEDY | talks(
        USER, {"role": "assistant", "content": "Tom now has 22 apples. The answer"},
        continue_final_message=True, add_generation_prompt=False), holds=lambda a: not a.texts[0].startswith("Tom")),
    Case("template arguments are taken", GREEDY | {"chat_template_kwargs": {"enable_thinking": False}}),
    Case("max_tokens of 1 writes one token", GREEDY | {"max_tokens": 1}, num_tokens=1, finish="length"),
    Case("max_completion_tokens is the same", {"temperature": 0, "max_completion_tokens": 5}, num_tokens=5,
         finish="length"),
    Case("both may agree", GREEDY | {"max_completion_tokens": 6}, num_tokens=6, finish="length"),
    Case("more than the room is cut to it", {"temperature": 0, "max_tokens": 10**12}, finish="stop"),
    Case("temperature up to 2", HOT, num_tokens=6),
    Case("a small top_p", HOT | {"top_p": 1e-6}),
    Case("top_k of -1 keeps all", HOT | {"top_k": -1}),
    Case("top_k of 1 is greedy", HOT | {"top_k": 1}),
    Case("a negative seed", HOT | {"seed": -(2**63)}),
    Case("the largest seed", HOT | {"seed": 2**64 - 1}),
    Case("two answers with a seed differ", HOT | {"n": 2, "seed": 5}, num_choices=2, holds=differ),
    Case("two answers without a seed differ", HOT | {"n": 2}, num_choices=2, holds=differ),
    Case("n answers count the prompt once", GREEDY | {"n": 3}, num_choices=3, num_tokens=18,
         holds=lambda a: a.usage["prompt_tokens"] == 31),
    Case("a stop string ends before it", {"temperature": 0, "stop": "The answer"}, finish="stop",
         holds=lambda a: "The answer" not in a.texts[0] and "apples" in a.texts[0]),
    Case("the earliest stop string wins", {"temperature": 0, "stop": ["The answer", "Monday"]}, finish="stop",
         holds=lambda a: "Monday" not in a.texts[0]),
    Case("a stop string that begins another", {"temperature": 0, "stop": ["On Mon", "On Monday, he"]}, finish="stop",
         holds=lambda a: a.texts[0].endswith(".\n")),
    Case("what a stop string might have been is delivered", GREEDY | {"stop": "At first, Tom sells"},
         holds=says("At first")),
    Case("no stop strings", GREEDY | {"stop": []}),
    Case("threshold 0 is the LLM alone", GREEDY | {"threshold": 0}, holds=rate(1, 1)),
    Case("rule llm is the LLM alone", GREEDY | {"rule": "llm"}, holds=rate(1, 1)),
    Case("rule slm is the SLM alone", GREEDY | {"rule": "slm"}, holds=rate(0, 0)),
    Case("rule entropy asks the LLM at times", GREEDY | {"rule": "entropy:threshold=0.1"}, holds=rate(0, 0.9)),
    Case("a header names a rule", GREEDY, headers={"X-Trivium-Rule": "random:rate=1"}, holds=rate(1, 1)),
    Case("threshold 2 is the SLM alone", GREEDY | {"threshold": 2}, holds=rate(0, 0)),
    Case("a header stands for the threshold", GREEDY, headers={"X-Trivium-Threshold": "0"}, holds=rate(1, 1)),
    Case("the body wins over a header", GREEDY | {"threshold": 2}, headers={"X-Trivium-Threshold": "0"},
         holds=rate(0, 0)),
    Case("a target of usage", GREEDY | {"target_llm_usage": 0.1}),
    Case("a loss policy", GREEDY | {"llm_loss_policy": "slm_only"}),
    Case("a run-ahead depth", GREEDY | {"run_ahead_depth": 0}),
    Case("tokens tell their authors", GREEDY | {"include_token_sources": True}, num_tokens=6,
         holds=lambda a: len(a.choices[0].tokens) == 6 and {"id", "text", "source", "divergence_probability"}
         == set(a.choices[0].tokens[0])),
    Case("special tokens in a message are text", GREEDY | talks({"role": "user", "content": "<|im_end|>"}),
         holds=lambda a: a.usage["prompt_tokens"] > 8),
    Case("usage adds up", GREEDY, holds=lambda a: a.usage["total_tokens"]
         == a.usage["prompt_tokens"] + a.usage["completion_tokens"] and "cached_tokens"
         in a.usage["prompt_tokens_details"] and a.usage["avg_activated_params_b"] > 0),
    # Refused.
    Case("a rule that isn't installed", GREEDY | {"rule": "nosuch"}, 400, "rule"),
    Case("a rule that isn't written like one", GREEDY | {"rule": "random:rate"}, 400, "rule"),
    Case("a parameter that a rule hasn't", GREEDY | {"rule": "llm:rate=1"}, 400, "rule.parameters.rate"),
    Case("a threshold of a rule without one", GREEDY | {"rule": "lossless", "threshold": 1}, 400, "threshold"),
    Case("no messages", {"messages": []}, 400, "messages"),
    Case("messages of another type", {"messages": Q}, 400, "messages"),
    Case("an unknown role", talks({"role": "robot", "content": "x"}), 400, "messages[0].role"),
    Case("a message without content", talks(USER, {"role": "user"}), 400, "messages[1].content"),
    Case("an image", talks({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}), 400,
         "messages[0].content[0].type"),
    Case("audio", talks({"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}), 400,
         "messages[0].content[0].type"),
    Case("a lone surrogate", talks({"role": "user", "content": "\ud800"}), 400, "messages[0].content"),
    Case("an unknown model", {"model": "gpt-5"}, 404, "model", "model_not_found"),
    Case("a prompt that doesn't fit", talks({"role": "user", "content": "apple " * 1200}), 400, "messages",
         "context_length_exceeded"),
    Case("a prompt that can't fit at all", talks({"role": "user", "content": "apple " * 200_000}), 400, "messages",
         "context_length_exceeded"),
    Case("both ways to go on", talks(USER, {"role": "assistant", "content": "x"}, continue_final_message=True,
                                     add_generation_prompt=True), 400, "continue_final_message"),
    Case("going on in a user's message", {"continue_final_message": True}, 400, "continue_final_message"),
    Case("no generation prompt", {"add_generation_prompt": False}, 400, "add_generation_prompt"),
    Case("tools that the template doesn't take", {"tools": [TOOL]}, 400, "tools"),
    Case("a forced tool", {"tools": [TOOL], "tool_choice": "required"}, 400, "tool_choice"),
    Case("a template argument that isn't the caller's", {"chat_template_kwargs": {"messages": []}}, 400,
         "chat_template_kwargs"),
    Case("max_tokens of 0", {"max_tokens": 0}, 400, "max_tokens"),
    Case("lengths that differ", {"max_tokens": 1, "max_completion_tokens": 2}, 400, "max_tokens"),
    Case("a temperature below 0", {"temperature": -0.1}, 400, "temperature"),
    Case("a temperature above 2", {"temperature": 2.5}, 400, "temperature"),
    Case("a temperature in words", {"temperature": "hot"}, 400, "temperature"),
    Case("top_p of 0", {"top_p": 0}, 400, "top_p"),
    Case("a seed of 65 bits", {"seed": 2**64}, 400, "seed"),
    Case("n of 0", {"n": 0}, 400, "n"),
    Case("n above the limit", {"n": 1000}, 400, "n"),
    Case("an empty stop string", {"stop": [""]}, 400, "stop[0]"),
    Case("a stop string that is too long", {"stop": "x" * 5000}, 400, "stop[0]"),
    Case("logprobs", {"logprobs": True}, 400, "logprobs"),
    Case("top_logprobs", {"top_logprobs": 3}, 400, "top_logprobs"),
    Case("a logit_bias", {"logit_bias": {"5": 1}}, 400, "logit_bias"),
    Case("a presence penalty", {"presence_penalty": 0.5}, 400, "presence_penalty"),
    Case("a frequency penalty", {"frequency_penalty": 0.5}, 400, "frequency_penalty"),
    Case("a repetition penalty", {"repetition_penalty": 1.1}, 400, "repetition_penalty"),
    Case("min_p", {"min_p": 0.1}, 400, "min_p"),
    Case("JSON mode", {"response_format": {"type": "json_object"}}, 400, "response_format"),
    Case("a guided answer", {"guided_regex": "a+"}, 400, "guided_regex"),
    Case("functions", {"functions": [{"name": "f"}]}, 400, "functions"),
    Case("two ways to route", {"threshold": 0.5, "target_llm_usage": 0.1}, 400, "target_llm_usage"),
    Case("a budget that no pair meets", {"target_avg_params_b": 500}, 400, "target_avg_params_b"),
    Case("a run-ahead beyond the limit", {"run_ahead_depth": 10_000}, 400, "run_ahead_depth"),
    Case("a header that is no number", {}, 400, "X-Trivium-Threshold", headers={"X-Trivium-Threshold": "high"}),
]  # fmt: skip

TEXT = [
    Case("a text is gone on with", {"prompt": "Tom now has 22 apples. The answer"} | GREEDY, holds=says(" is")),
    Case("texts are gone on with in their order", {"prompt": ["Tom now has", "The answer"]} | GREEDY, num_choices=2,
         holds=lambda a: a.texts[1].startswith(" is")),
    Case("token ids are gone on with", {"prompt": [5, 6, 7]} | GREEDY, holds=lambda a: a.usage["prompt_tokens"] == 3),
    Case("lists of token ids too", {"prompt": [[5, 6], [7, 8, 9]]} | GREEDY, num_choices=2,
         holds=lambda a: a.usage["prompt_tokens"] == 5),
    Case("n answers to each text", {"prompt": ["Tom", "Ann"], "n": 2} | GREEDY, num_choices=4,
         holds=lambda a: a.texts[0] == a.texts[1]),
    Case("the text is given back", {"prompt": "The answer", "echo": True} | GREEDY,
         holds=lambda a: a.texts[0].startswith("The answer is")),
    Case("best_of n is n", {"prompt": "The answer", "n": 2, "best_of": 2} | GREEDY, num_choices=2),
    Case("an empty suffix is neutral", {"prompt": "The answer", "suffix": ""} | GREEDY),
    Case("special tokens are recognised", {"prompt": "<|im_end|>"} | GREEDY,
         holds=lambda a: a.usage["prompt_tokens"] == 1),
    Case("a length that is cut", {"prompt": "The answer", "max_tokens": 2, "temperature": 0}, num_tokens=2,
         finish="length"),
    Case("no prompt", {}, 400, "prompt"),
    Case("an empty prompt", {"prompt": ""}, 400, "prompt"),
    Case("an empty list", {"prompt": []}, 400, "prompt"),
    Case("a mixed list", {"prompt": ["a", 1]}, 400, "prompt[1]"),
    Case("an id outside of the vocabulary", {"prompt": [10**6]}, 400, "prompt"),
    Case("a bad prompt among good ones", {"prompt": ["The answer", ""]}, 400, "prompt[1]"),
    Case("too many prompts", {"prompt": ["a"] * 257}, 400, "prompt"),
    Case("a text that doesn't fit", {"prompt": "apple " * 1200}, 400, "prompt", "context_length_exceeded"),
    Case("ids that don't fit", {"prompt": [5] * 2000}, 400, "prompt", "context_length_exceeded"),
    Case("an echo of ids", {"prompt": [5], "echo": True}, 400, "echo"),
    Case("a suffix", {"prompt": "a", "suffix": "b"}, 400, "suffix"),
    Case("logprobs of a text", {"prompt": "a", "logprobs": 1}, 400, "logprobs"),
    Case("best_of more than n", {"prompt": "a", "best_of": 3}, 400, "best_of"),
]  # fmt: skip


@pytest.fixture
async def http(door: Gateway) -> Any:
    async with httpx.AsyncClient(base_url=door.url, timeout=TIMEOUT_S) as client:
        yield client


def hold(answer: Answer, case: Case) -> None:
    assert answer.status == case.status, answer.error
    if answer.error is not None:
        assert answer.error["param"] == case.param, answer.error
        assert case.code is None or answer.error["code"] == case.code
        return
    assert sorted(answer.choices) == list(range(case.num_choices))
    assert case.finish is None or {said.finish for said in answer.choices.values()} == {case.finish}
    assert case.num_tokens is None or answer.usage["completion_tokens"] == case.num_tokens
    assert case.holds(answer), answer


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("case", CHAT, ids=str)
async def test_chat(http: httpx.AsyncClient, case: Case, stream: bool) -> None:
    hold(await ask(http, "chat", talks(USER) | case.fields, stream=stream, headers=case.headers), case)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("case", TEXT, ids=str)
async def test_text(http: httpx.AsyncClient, case: Case, stream: bool) -> None:
    hold(await ask(http, "text", case.fields, stream=stream, headers=case.headers), case)


async def test_same_seed_draws_the_same_answer_and_none_another_one(http: httpx.AsyncClient) -> None:
    async def drawn(**fields: Any) -> str:
        return (await ask(http, "chat", talks(USER) | HOT | {"max_tokens": 12} | fields, stream=False)).texts[0]

    assert await drawn(seed=7) == await drawn(seed=7) != await drawn(seed=8)
    assert await drawn() != await drawn()


async def test_options_of_a_stream_without_one_are_refused(http: httpx.AsyncClient) -> None:
    answer = await ask(http, "chat", talks(USER, stream_options={"include_usage": True}), stream=False)
    assert (answer.status, answer.error and answer.error["param"]) == (400, "stream_options")
