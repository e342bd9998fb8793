"""Makes the sweep of a rule that scores drafts by what the small model says of them: no labels, no LLM, no router.

The small model writes answers by itself; a threshold's LLM usage is the share of its tokens whose score reaches it.
Labelled tokens, where there are some, add recall and precision.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from labeler_jobs.models.identity import identify_pair
from router_service.description import ModelIdentity
from router_service.training.calibrate import SWEEP_USAGE_RATES
from router_service.training.dataset import DatasetError, labelled_pair, load_routing_data
from router_service.training.routing_data import RoutingData
from services.common.pair import ModelSection, Pair
from services.engines.base import EngineOptions, SlmEngine
from services.rules.rule import DraftRows, Evidence, Rule
from services.rules.sweep import RuleSweep, SweepPoint, SweptModel

_CHUNK = 65536

Scores = NDArray[np.float32]


def swept_model(pair: Pair) -> SweptModel:
    """Identifies a pair's small model.

    Raises:
        IdentityError: A model of the pair can't be identified, or the two don't share a tokenizer.
    """
    return SweptModel(**dataclasses.asdict(identify_pair(pair).slm))


def slm_options(section: ModelSection) -> EngineOptions:
    """Options of the engine as the pair file sets it up; what it leaves out keeps the engine's default."""
    chosen = section.engine.model_dump(exclude_none=True, exclude={"name"})
    return EngineOptions(model=section.model, revision=section.revision, **chosen)


def score_drafts(
    engine: SlmEngine,
    prompts: Sequence[Sequence[int]],
    rule: Rule,
    *,
    max_new_tokens: int,
    max_open: int,
    on_answer: Callable[[], None] = lambda: None,
) -> Scores:
    """Lets the small model answer prompts greedily, and scores every token that it writes.

    Args:
        engine: Not started yet; it is stopped in the end.
        prompts: Prompt token ids.
        rule: Scores by what the small model says, `Evidence.SLM`.
        max_new_tokens: Limit of an answer, in tokens.
        max_open: Answers that are written at a time.
        on_answer: Called when an answer is complete.

    Returns:
        f32 [tokens], in no order that means anything.

    Raises:
        ModelLoadError: The model can't be loaded.
        InvalidRequest: A prompt is empty, or an id is outside the vocabulary.
        ContextLengthExceeded: A prompt leaves no room for one token.
    """
    assert rule.evidence is Evidence.SLM
    return asyncio.run(_score_drafts(engine, prompts, rule, max_new_tokens, max_open, on_answer))


async def _score_drafts(
    engine: SlmEngine,
    prompts: Sequence[Sequence[int]],
    rule: Rule,
    max_new_tokens: int,
    max_open: int,
    on_answer: Callable[[], None],
) -> Scores:
    await engine.start()
    try:
        eos_token_ids = frozenset(engine.info.eos_token_ids)
        waiting, ends, scores = deque(enumerate(prompts)), dict[int, int](), list[Scores]()
        while waiting or ends:
            while waiting and len(ends) < max_open:
                number, prompt = waiting.popleft()
                ends[number] = min(len(prompt) + max_new_tokens, engine.info.context_len)
                engine.open(number, prompt, epoch=0, draft_until=ends[number], stop_token_ids=eos_token_ids)
            step = await engine.step()
            for refusal in step.refusals:
                raise refusal.error
            # A step may have run a part of a long prompt alone.
            if step.sequence_ids:
                scores.append(rule.scores(DraftRows(step.top_logits, np.array(step.token_ids))))
            for number, position, token_id in zip(step.sequence_ids, step.positions, step.token_ids, strict=True):
                if token_id in eos_token_ids or position + 1 == ends[number]:
                    engine.close(number)
                    del ends[number]
                    on_answer()
        return np.concatenate(scores)
    finally:
        await engine.stop()


@dataclasses.dataclass(frozen=True)
class LabelledScores:
    """Scores of labelled tokens.

    Attributes:
        scores: f32 [tokens].
        divergent: bool [tokens].
    """

    scores: Scores
    divergent: NDArray[np.bool_]


def score_labelled(dataset: Path, rule: Rule, slm: SweptModel) -> LabelledScores:
    """Scores the tokens of a labelled dataset, whose features are stored in half precision.

    Raises:
        DatasetError: The dataset can't be used, or was labelled with another small model.
    """
    if (labelled := labelled_pair(dataset).slm) != ModelIdentity(**slm.model_dump()):
        raise DatasetError(
            f"{dataset}: was labelled with slm {labelled.model_id!r} at revision {labelled.revision!r}; "
            f"the pair's is {slm.model_id!r} at {slm.revision!r}"
        )
    data = load_routing_data(dataset, "divergent")
    return LabelledScores(score_rows(rule, data), data.divergent.numpy())


def score_rows(rule: Rule, data: RoutingData) -> Scores:
    """Scores the tokens of a dataset by what the small model says of them; f32 [tokens]."""
    parts = zip(torch.split(data.top_logits, _CHUNK), torch.split(data.token_ids, _CHUNK), strict=True)
    scores = [rule.scores(DraftRows(logits.float().numpy(), token_ids.numpy())) for logits, token_ids in parts]
    return np.concatenate(scores)


def make_sweep(rule: Rule, slm: SweptModel, scores: Scores, labelled: LabelledScores | None = None) -> RuleSweep:
    """Measures thresholds that route given shares of the drafts.

    Args:
        rule: The rule.
        slm: Whose drafts they are.
        scores: f32 [tokens], at least one, none negative.
        labelled: Adds recall and precision.
    """
    ranked = np.sort(scores)[::-1]
    # Between the last draft that is routed and the first that isn't, as a request can name it.
    last = np.clip(np.round(np.array(SWEEP_USAGE_RATES) * len(ranked)).astype(int), 1, len(ranked)) - 1
    middles = (ranked[last] + ranked[np.minimum(last + 1, len(ranked) - 1)]) / np.float32(2)
    above_all = np.nextafter(ranked[0], np.float32(np.inf))
    thresholds = sorted({float(above_all), 0.0, *map(float, middles)}, reverse=True)
    return RuleSweep(
        rule=rule.name,
        version=rule.version,
        slm=slm,
        num_tokens=len(scores),
        rows=tuple(_measure(threshold, scores, labelled) for threshold in thresholds),
    )


def _measure(threshold: float, scores: Scores, labelled: LabelledScores | None) -> SweepPoint:
    usage = float((scores >= threshold).mean())
    if labelled is None:
        return SweepPoint(threshold=threshold, llm_usage_rate=usage)
    routed = labelled.scores >= threshold
    hits = int((routed & labelled.divergent).sum())
    return SweepPoint(
        threshold=threshold,
        llm_usage_rate=usage,
        recall=hits / max(1, int(labelled.divergent.sum())),
        precision=hits / max(1, int(routed.sum())),
    )
