"""Turns a `GenerateRequest` into a task that can be run, or says which field is wrong.

Owns the checks that need no model but the tokenizer, and what absent fields mean; prompts have a module of their own.
What is cheap to check is checked at once, so that a request waits for its turn with nothing but its prompt left to be
read. Everything after this module may take a task's values for granted.
"""

from __future__ import annotations

import asyncio
import math
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from trivium.v1 import common_pb2, orchestrator_pb2

from services.common.errors import InvalidRequest
from services.engines.base import GREEDY, SamplingParams
from services.orchestrator.requests.prompt import Prompt, PromptReader
from services.orchestrator.requests.task import GenerationTask, LlmLossPolicy
from services.rules.chosen import ChosenRule

MAX_REQUEST_ID_LEN = 128
MAX_STOP_STRINGS = 16
MAX_STOP_LEN = 1024

# Below it, one unit in the last place of a logit decides: that is greedy, without the overflow.
_MIN_TEMPERATURE = 1e-4


@dataclass(frozen=True, slots=True)
class GenerationLimits:
    """What the pair and the server allow, and their defaults.

    Args:
        context_len: Longest sequence in tokens, prompt and completion together.
        vocab_size: Valid ids are [0, vocab_size).
        choose_rule: Turns what a request says about routing into a rule.
        max_run_ahead_depth: Deepest run-ahead that a request may ask for.
    """

    context_len: int
    vocab_size: int
    choose_rule: Callable[[orchestrator_pb2.GenerateRequest], ChosenRule]
    max_run_ahead_depth: int


class ParsedRequest:
    """A request of which all is checked but what only tokenizing tells, and which keeps nothing of its message.

    Args:
        task: What is known, with the token limit as the request has it and without a prompt.
        prompt: The prompt.
        prompts: Reads the prompt.
    """

    def __init__(self, task: GenerationTask, prompt: Prompt, prompts: PromptReader) -> None:
        self.request_id = task.request_id
        self.resume_from = task.resume_from
        self._task = task
        self._prompt: Prompt | None = prompt
        self._prompts = prompts
        self._reading = asyncio.Lock()

    async def task(self) -> GenerationTask:
        """Tokenizes the prompt, once.

        Raises:
            InvalidRequest: The chat template refuses it, it is empty, or `resume_from` is more than there can be.
            ContextLengthExceeded: The prompt leaves no room for one token.
        """
        # Who resumes a request asks for it as well as its handler.
        async with self._reading:
            if self._prompt is not None:
                read = await self._prompts.read(self._prompt)
                max_new_tokens = min(self._task.max_new_tokens, self._prompt.context_len - len(read.token_ids))
                _check_resume_from(self.resume_from, max_new_tokens)
                self._task = replace(
                    self._task,
                    prompt_token_ids=read.token_ids,
                    max_new_tokens=max_new_tokens,
                    opens_reasoning=read.opens_reasoning,
                )
                self._prompt = None
        return self._task


def parse_request(
    request: orchestrator_pb2.GenerateRequest, prompts: PromptReader, limits: GenerationLimits, namespace: str = ""
) -> ParsedRequest:
    """Checks a request as far as that is cheap, and resolves what it leaves open.

    Text is to be tokenized as it is: no token is put before or after it, but special tokens that are written out in
    it are recognised. A chat is rendered by the tokenizer's chat template up to where the assistant speaks; special
    tokens that are written out in it are text.

    Args:
        request: As received.
        prompts: Reads prompts.
        limits: What is allowed.
        namespace: What the task's request id begins with, before the client's.

    Raises:
        InvalidRequest: A field can't be used; the message begins with its name.
        ContextLengthExceeded: The prompt can't leave room for one token.
        SweepMissing: There is a target, and no sweep of the rule.
        NotAllowed: The caller may not have that routing.
    """
    request_id = f"{namespace}{_request_id(request)}"
    max_new_tokens = _max_new_tokens(request, default=limits.context_len)
    resume_from = request.resume_from if request.HasField("resume_from") else None
    _check_resume_from(resume_from, max_new_tokens)
    task = GenerationTask(
        request_id=request_id,
        prompt_token_ids=(),
        max_new_tokens=max_new_tokens,
        rule=limits.choose_rule(request),
        stop=_stop(request.stop),
        sampling=_sampling(request.sampling) if request.HasField("sampling") else GREEDY,
        run_ahead_depth=_run_ahead_depth(request, limits.max_run_ahead_depth),
        resume_from=resume_from,
        llm_loss_policy=_llm_loss_policy(request),
    )
    prompt = prompts.check(request, context_len=limits.context_len, vocab_size=limits.vocab_size)
    return ParsedRequest(task, prompt, prompts)


def _check_resume_from(resume_from: int | None, max_new_tokens: int) -> None:
    if resume_from is not None and resume_from > max_new_tokens:
        raise InvalidRequest(f"resume_from: {resume_from} is more than {max_new_tokens}, the most there can be")


def _request_id(request: orchestrator_pb2.GenerateRequest) -> str:
    request_id = request.request_id
    if len(request_id) > MAX_REQUEST_ID_LEN:
        raise InvalidRequest(f"request_id: {len(request_id)} characters, at most {MAX_REQUEST_ID_LEN} are allowed")
    if not request_id.isprintable():
        raise InvalidRequest("request_id: holds control or other unprintable characters")
    if not request_id and request.HasField("resume_from"):
        raise InvalidRequest("resume_from: needs the request_id of the request to resume")
    return request_id or uuid.uuid4().hex


def _max_new_tokens(request: orchestrator_pb2.GenerateRequest, default: int) -> int:
    if not request.HasField("max_new_tokens"):
        return default
    if request.max_new_tokens < 1:
        raise InvalidRequest(f"max_new_tokens: must be at least 1, got {request.max_new_tokens}")
    return request.max_new_tokens


def _stop(stop: Sequence[str]) -> tuple[str, ...]:
    if len(stop) > MAX_STOP_STRINGS:
        raise InvalidRequest(f"stop: {len(stop)} strings, at most {MAX_STOP_STRINGS} are allowed")
    for i, text in enumerate(stop):
        if not text:
            raise InvalidRequest(f"stop[{i}]: must not be empty")
        if len(text) > MAX_STOP_LEN:
            raise InvalidRequest(f"stop[{i}]: {len(text)} characters, at most {MAX_STOP_LEN} are allowed")
    return tuple(stop)


def _sampling(sampling: common_pb2.SamplingParams) -> SamplingParams:
    temperature, top_p = sampling.temperature, sampling.top_p or 1.0
    if not (math.isfinite(temperature) and temperature >= 0):
        raise InvalidRequest(f"sampling.temperature: must be finite and at least 0, got {temperature}")
    # Written so that NaN fails it.
    if not 0 < top_p <= 1:
        raise InvalidRequest(f"sampling.top_p: must be in (0, 1], got {top_p}")
    if temperature < _MIN_TEMPERATURE:
        return GREEDY
    return SamplingParams(temperature, sampling.top_k, top_p, sampling.seed)


def _run_ahead_depth(request: orchestrator_pb2.GenerateRequest, maximum: int) -> int | None:
    if not request.HasField("run_ahead_depth"):
        return None
    if request.run_ahead_depth > maximum:
        raise InvalidRequest(f"run_ahead_depth: at most {maximum} is allowed, got {request.run_ahead_depth}")
    return request.run_ahead_depth


def _llm_loss_policy(request: orchestrator_pb2.GenerateRequest) -> LlmLossPolicy:
    try:
        return LlmLossPolicy(request.llm_loss_policy or orchestrator_pb2.LLM_LOSS_POLICY_WAIT)
    except ValueError:
        known = ", ".join(policy.name for policy in LlmLossPolicy)
        raise InvalidRequest(f"llm_loss_policy: {request.llm_loss_policy} is none of {known}") from None
