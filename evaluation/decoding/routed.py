"""Decodes many questions at once under a routing rule: the routing core on the engines, without services.

The tokens are those of `evaluation.in_process`, which is written straight from the definition and knows neither. The
order of work is another: all sequences draft together, the rule scores a step's drafts together, and a
routed sequence waits until enough others do. That measures accuracy and usage; latency is `in_process`'s to measure.

Source: arXiv:2505.21600 §4.3; deviation: none.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch

from evaluation.decoding.response import RoutedResponse
from evaluation.decoding.room import BATCH_SIZE, room_for
from evaluation.decoding.router_scorer import RouterScorer
from services.engines.base import DraftStep, Extension, LlmEngine, SlmEngine
from services.engines.factory import create_llm_engine, create_slm_engine
from services.orchestrator.routing.actions import Action, AskLlm, Emit, Finish, GrantSlm, OpenSlm, RewindSlm, Source
from services.orchestrator.routing.core import Ending, RoutingCore
from services.orchestrator.routing.depth import RunAhead
from services.rules.chosen import ChosenRule
from services.rules.rule import DraftRows, Evidence

_WAITING_SHARE = 0.5
"""The LLM runs once this share of the open sequences waits for it."""
_RUN_AHEAD_DEPTH = 0
"""The paper's own schedule: with many sequences at a time, waiting costs less than drafts that are dropped."""


def decode_routed(
    slm: Path,
    llm: Path,
    rules: Sequence[ChosenRule],
    prompts: Sequence[Sequence[int]],
    *,
    router: RouterScorer | None = None,
    max_new_tokens: int,
    batch_size: int = BATCH_SIZE,
) -> list[RoutedResponse]:
    """Decodes prompts greedily under a routing rule.

    Args:
        slm: Folder of the small model.
        llm: Folder of the large model.
        rules: Of each prompt: one rule for all of them, with parameters that may differ.
        prompts: Prompt token ids.
        router: Scores drafts for a rule that asks the router.
        max_new_tokens: Limit of a response, in tokens.
        batch_size: Prompts that are decoded together.

    Returns:
        One response per prompt, in order.
    """
    engines = (
        create_slm_engine("transformers", room_for(slm, prompts, max_new_tokens, batch_size)),
        create_llm_engine("transformers", room_for(llm, prompts, max_new_tokens, batch_size)),
    )
    return asyncio.run(_decode(*engines, rules, prompts, router, max_new_tokens, batch_size))


async def _decode(
    slm: SlmEngine,
    llm: LlmEngine,
    rules: Sequence[ChosenRule],
    prompts: Sequence[Sequence[int]],
    router: RouterScorer | None,
    max_new_tokens: int,
    batch_size: int,
) -> list[RoutedResponse]:
    await slm.start()
    try:
        await llm.start()
        try:
            decoding = _Decoding(slm, llm, rules, prompts, router, max_new_tokens, batch_size)
            return await decoding.run()
        finally:
            await llm.stop()
    finally:
        await slm.stop()


class _Decoding:
    """All prompts on their way; those that are open have a core, and are numbered as their prompts are."""

    def __init__(
        self,
        slm: SlmEngine,
        llm: LlmEngine,
        rules: Sequence[ChosenRule],
        prompts: Sequence[Sequence[int]],
        router: RouterScorer | None,
        max_new_tokens: int,
        batch_size: int,
    ) -> None:
        self._slm = slm
        self._llm = llm
        self._rules = rules
        self._prompts = prompts
        self._router = router
        self._max_new_tokens = max_new_tokens
        self._batch_size = batch_size
        self._eos_token_ids = frozenset(slm.info.eos_token_ids) | frozenset(llm.info.eos_token_ids)
        self._responses = [RoutedResponse() for _ in prompts]
        # Prompts of like length come together, so that a pass pads little.
        self._unopened = deque(sorted(range(len(prompts)), key=lambda number: len(prompts[number])))
        self._cores: dict[int, RoutingCore] = {}
        # Open sequences whose next draft is on its way, and those that wait for the LLM.
        self._drafting: set[int] = set()
        self._asking: set[int] = set()

    async def run(self) -> list[RoutedResponse]:
        """Decodes to the end of every prompt."""
        while self._open_more():
            if not self._drafting or len(self._asking) >= _WAITING_SHARE * len(self._cores):
                await self._answer()
            else:
                self._decide(await self._slm.step())
        return self._responses

    def _open_more(self) -> bool:
        """Opens what fits into the batch; tells whether anything is open."""
        context_len = min(self._slm.info.context_len, self._llm.info.context_len)
        while self._unopened and len(self._cores) < self._batch_size:
            number = self._unopened.popleft()
            prompt = self._prompts[number]
            core = RoutingCore(
                prompt,
                decider=self._rules[number].decider(),
                ending=Ending(self._eos_token_ids, min(len(prompt) + self._max_new_tokens, context_len)),
                run_ahead=RunAhead(_RUN_AHEAD_DEPTH),
            )
            self._cores[number] = core
            self._carry_out(number, [*core.slm_ready(), *core.llm_ready()])
        return bool(self._cores)

    def _decide(self, step: DraftStep) -> None:
        for refusal in step.refusals:
            raise refusal.error
        drafted = zip(step.sequence_ids, step.positions, step.token_ids, step.epochs, strict=True)
        rows = [row for row, (number, *draft) in enumerate(drafted) if self._cores[number].drafted(*draft)]
        # A step may have run a part of a long prompt alone.
        if not rows:
            return
        for row, score in zip(rows, self._score(step, rows), strict=True):
            number = step.sequence_ids[row]
            self._drafting.discard(number)
            self._carry_out(number, self._cores[number].scored(step.positions[row], score, step.epochs[row]))

    @torch.inference_mode()
    def _score(self, step: DraftStep, rows: Sequence[int]) -> Iterable[float]:
        rule = self._rules[0].rule
        token_ids = np.array([step.token_ids[row] for row in rows])
        match rule.evidence:
            case Evidence.NONE:
                return [0.0] * len(rows)
            case Evidence.SLM:
                return map(float, rule.scores(DraftRows(step.top_logits[rows], token_ids)))
            case Evidence.ROUTER:
                assert self._router is not None
                features = (step.hidden_states[rows], step.top_logits[rows], token_ids)
                return map(float, self._router.scores(*map(torch.from_numpy, features)))

    async def _answer(self) -> None:
        answers, refusals = await self._llm.step()
        for refusal in refusals:
            raise refusal.error
        for answer in answers:
            self._asking.remove(answer.sequence_id)
            self._carry_out(
                answer.sequence_id, self._cores[answer.sequence_id].answered(answer.pass_id, answer.token_ids)
            )

    def _carry_out(self, number: int, actions: Sequence[Action]) -> None:
        for action in actions:
            match action:
                case OpenSlm(token_ids, epoch, draft_until):
                    self._slm.open(
                        number, token_ids, epoch=epoch, draft_until=draft_until, stop_token_ids=self._eos_token_ids
                    )
                    self._drafting.add(number)
                case RewindSlm(length, token_ids, epoch, draft_until):
                    self._slm.rewind(number, length=length, token_ids=token_ids, epoch=epoch, draft_until=draft_until)
                    self._drafting.add(number)
                case GrantSlm(draft_until):
                    self._slm.grant(number, draft_until=draft_until)
                    self._drafting.add(number)
                case AskLlm(pass_id, base_len, token_ids, query_positions):
                    self._llm.extend(Extension(number, base_len, token_ids, query_positions, pass_id))
                    self._asking.add(number)
                case Emit(tokens):
                    response = self._responses[number]
                    response.token_ids += [token.token_id for token in tokens]
                    response.from_llm += [token.source is Source.LLM for token in tokens]
                    response.scores += [token.score for token in tokens]
                case Finish():
                    self._slm.close(number)
                    self._llm.release(number)
                    del self._cores[number]
