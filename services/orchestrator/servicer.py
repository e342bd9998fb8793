"""The orchestrator's gRPC face: checks requests, streams answers, tells what it is.

Owns the translation between messages and the driver's values.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from functools import partial

from transformers import PreTrainedTokenizerFast
from trivium.v1 import orchestrator_pb2, orchestrator_pb2_grpc

from services.common.access.keys_file import LossPolicy
from services.common.access.tenant import Tenant
from services.common.errors import ModelNotReady, NotAllowed
from services.common.serving.lifecycle import Lifecycle
from services.common.text.chat_template import ChatTemplate
from services.orchestrator.door import CALLER
from services.orchestrator.driver import Driver
from services.orchestrator.index.prefix_index import PrefixIndex
from services.orchestrator.pair.check import ServedPair
from services.orchestrator.pair.gate import INCOMPLETE, PairGate
from services.orchestrator.pair.rules import ServedRules, rule_sizes
from services.orchestrator.requests.parse import GenerationLimits, parse_request
from services.orchestrator.requests.prompt import PromptReader
from services.orchestrator.requests.task import GenerationTask
from services.orchestrator.routing.actions import Finish, FinishReason, Source
from services.orchestrator.sequences.answer import AnswerPart
from services.orchestrator.sequences.sequence import RunningSequence
from services.orchestrator.settings import OrchestratorSettings
from services.rules.chosen import ChosenRule

_SOURCES = {
    Source.SLM: orchestrator_pb2.TOKEN_SOURCE_SLM,
    Source.LLM: orchestrator_pb2.TOKEN_SOURCE_LLM,
    Source.SLM_FALLBACK: orchestrator_pb2.TOKEN_SOURCE_SLM_FALLBACK,
    Source.SLM_CONFIRMED: orchestrator_pb2.TOKEN_SOURCE_SLM_CONFIRMED,
}
_LOSS_POLICIES: dict[int, LossPolicy] = {
    orchestrator_pb2.LLM_LOSS_POLICY_UNSPECIFIED: "wait",
    orchestrator_pb2.LLM_LOSS_POLICY_WAIT: "wait",
    orchestrator_pb2.LLM_LOSS_POLICY_SLM_ONLY: "slm_only",
    orchestrator_pb2.LLM_LOSS_POLICY_FAIL: "fail",
}
_REASONS = {
    FinishReason.STOP: orchestrator_pb2.FINISH_REASON_STOP,
    FinishReason.LENGTH: orchestrator_pb2.FINISH_REASON_LENGTH,
}


class OrchestratorServicer(orchestrator_pb2_grpc.OrchestratorServiceServicer):
    """Serves `trivium.v1.OrchestratorService`.

    Args:
        settings: Settings of this process.
        lifecycle: State of this process.
        driver: Runs sequences.
        gate: Knows the pair.
        rules: What it can be served with.
        index: The shared prefix index.
        tokenizer: The pair's tokenizer.
    """

    def __init__(
        self,
        settings: OrchestratorSettings,
        lifecycle: Lifecycle,
        *,
        driver: Driver,
        gate: PairGate,
        rules: ServedRules,
        index: PrefixIndex,
        tokenizer: PreTrainedTokenizerFast,
    ) -> None:
        self._settings = settings
        self._lifecycle = lifecycle
        self._driver = driver
        self._gate = gate
        self._rules = rules
        self._index = index
        self._prompts = PromptReader(tokenizer)
        self._num_client_messages = 0

    async def Generate(
        self, request: orchestrator_pb2.GenerateRequest, context: object
    ) -> AsyncIterator[orchestrator_pb2.GenerateResponse]:
        """Streams a completion."""
        pair = self._pair()
        caller = CALLER.get()
        _check_loss_policy(request, caller)
        namespace = _namespace(caller)
        parsed = parse_request(request, self._prompts, self._limits(pair, caller), namespace)
        # It may be large, and the answer take long.
        del request
        interval_s = self._settings.stream_interval_ms / 1000
        request_id = parsed.request_id.removeprefix(namespace)
        async with self._driver.sequence(parsed) as sequence:
            _charge(caller, len(sequence.task.prompt_token_ids))
            prompt: orchestrator_pb2.PromptInfo | None = _prompt(sequence.task)
            async for part in sequence.answer.parts(interval_s):
                self._num_client_messages += 1
                _charge(caller, len(part.tokens))
                response = _response(request_id, part, prompt)
                if prompt is not None:
                    response.used_rule.CopyFrom(_used_rule(sequence.task.rule))
                prompt = None
                if part.finish is not None:
                    response.finish.CopyFrom(_finish(pair, sequence, part.finish))
                yield response

    async def Cancel(
        self, request: orchestrator_pb2.CancelRequest, context: object
    ) -> orchestrator_pb2.CancelResponse:
        """Cancels a running request."""
        return orchestrator_pb2.CancelResponse(
            cancelled=self._driver.cancel(f"{_namespace(CALLER.get())}{request.request_id}")
        )

    async def GetServerInfo(
        self, request: orchestrator_pb2.OrchestratorServiceGetServerInfoRequest, context: object
    ) -> orchestrator_pb2.OrchestratorServiceGetServerInfoResponse:
        """Describes the pair, the process and its load."""
        pair = self._pair()
        return orchestrator_pb2.OrchestratorServiceGetServerInfoResponse(
            replica=self._lifecycle.replica_info(),
            slm=self._gate.members.slm,
            llm=self._gate.members.llm,
            router=self._gate.members.router,
            context_length=self._driver.context_len,
            load=self._load(),
            chat_template=_chat_template(self._prompts.template),
            rules=self._rules.describe(pair),
        )

    def _pair(self) -> ServedPair:
        if self._gate.pair is None:
            raise ModelNotReady(INCOMPLETE)
        return self._gate.pair

    def _limits(self, pair: ServedPair, caller: Tenant | None) -> GenerationLimits:
        return GenerationLimits(
            context_len=self._driver.context_len,
            vocab_size=pair.vocab_size,
            choose_rule=partial(self._rules.choose, pair=pair, allowed=caller.limits.routing if caller else None),
            max_run_ahead_depth=self._settings.max_run_ahead_depth,
        )

    def _load(self) -> orchestrator_pb2.OrchestratorLoad:
        counts = self._driver.counts
        return orchestrator_pb2.OrchestratorLoad(
            num_active_requests=self._driver.admission.num_active,
            num_requests_finished=counts.num_requests_finished,
            num_tokens_accepted=counts.num_tokens_accepted,
            num_llm_tokens=counts.num_llm_tokens,
            num_drafts_dropped=counts.num_drafts_dropped,
            num_peer_messages=self._driver.num_peer_messages,
            num_redis_commands=self._index.num_commands,
            prefix_index_available=self._index.available,
            num_prefix_index_failures=self._index.num_failures,
            prefix_index_problem=self._index.problem,
            cpu_s=time.process_time(),
            num_client_messages=self._num_client_messages,
            num_waiting_requests=self._driver.admission.num_waiting,
            num_requests_refused=self._driver.admission.num_refused + self._lifecycle.num_calls_refused,
            num_slm_replicas=len(self._driver.slm.links.available),
            num_router_replicas=len(self._driver.router.links.available),
            num_llm_replicas=len(self._driver.llm.links.available),
            max_active_requests=self._settings.max_active_requests,
        )


def _namespace(caller: Tenant | None) -> str:
    """What request ids begin with inside, so that no tenant reaches another's."""
    return caller.namespace if caller else ""


def _charge(caller: Tenant | None, num_tokens: int) -> None:
    if caller:
        caller.charge(num_tokens)


def _check_loss_policy(request: orchestrator_pb2.GenerateRequest, caller: Tenant | None) -> None:
    """Raises where a policy is known and not the caller's; what isn't known is refused as such."""
    policy = _LOSS_POLICIES.get(request.llm_loss_policy)
    allowed = caller.limits.routing.llm_loss_policies if caller else ()
    if policy and caller and policy not in allowed:
        raise NotAllowed(f"llm_loss_policy: {policy} is not allowed with this key; allowed are {', '.join(allowed)}")


def _chat_template(template: ChatTemplate) -> orchestrator_pb2.ChatTemplate:
    return orchestrator_pb2.ChatTemplate(
        exists=template.exists, takes_tools=template.takes_tools, has_reasoning=template.has_reasoning
    )


def _prompt(task: GenerationTask) -> orchestrator_pb2.PromptInfo:
    return orchestrator_pb2.PromptInfo(num_tokens=len(task.prompt_token_ids), opens_reasoning=task.opens_reasoning)


def _used_rule(chosen: ChosenRule) -> orchestrator_pb2.UsedRule:
    return orchestrator_pb2.UsedRule(
        rule=orchestrator_pb2.RoutingRule(name=chosen.rule.name, parameters=chosen.parameters),
        version=chosen.rule.version,
        router_weights_sha256=chosen.router_weights,
    )


def _response(
    request_id: str, part: AnswerPart, prompt: orchestrator_pb2.PromptInfo | None
) -> orchestrator_pb2.GenerateResponse:
    return orchestrator_pb2.GenerateResponse(
        request_id=request_id,
        text="".join(part.texts),
        token_ids=[token.token_id for token in part.tokens],
        sources=[_SOURCES[token.source] for token in part.tokens],
        divergence_probabilities=[token.score for token in part.tokens],
        text_lengths=[len(text) for text in part.texts[: len(part.tokens)]],
        prompt=prompt,
    )


def _finish(pair: ServedPair, sequence: RunningSequence, finish: Finish) -> orchestrator_pb2.Finish:
    num_completion, num_llm = len(sequence.completion), sequence.answer.count(Source.LLM)
    num_llm_decisions = num_llm + sequence.answer.count(Source.SLM_CONFIRMED)
    num_prompt = len(sequence.task.prompt_token_ids)
    num_tokens = max(num_completion, 1)
    chosen = sequence.task.rule
    sizes = rule_sizes(chosen.rule, pair)
    usage = orchestrator_pb2.Usage(
        num_prompt_tokens=num_prompt,
        num_completion_tokens=num_completion,
        num_llm_tokens=num_llm,
        num_llm_decisions=num_llm_decisions,
        llm_usage_rate=num_llm / num_tokens,
        avg_activated_params_b=sizes.avg_activated_params_b(num_llm_decisions / num_tokens),
        num_slm_tokens_reused=min(sequence.slm_prefill.num_reused, num_prompt),
        num_llm_tokens_reused=min(sequence.llm_prefill.num_reused, num_prompt),
        num_slm_tokens_prefilled=sequence.slm_prefill.num_prefilled,
        num_llm_tokens_prefilled=sequence.llm_prefill.num_prefilled,
        num_drafts_dropped=sequence.core.num_drafts_dropped,
        threshold=chosen.threshold or 0.0,
        used_rule=_used_rule(chosen),
        num_fallback_tokens=sequence.answer.count(Source.SLM_FALLBACK),
    )
    return orchestrator_pb2.Finish(reason=_REASONS[finish.reason], stop=finish.stop, usage=usage)
