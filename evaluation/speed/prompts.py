"""The prompts of turns that are timed: each turn has its own, so that no prefix cache helps."""

from __future__ import annotations

from collections.abc import Iterator

from evaluation.reference.corpus.samples import draw_sample
from evaluation.reference.pair import LoadedPair
from labeler_jobs.models.huggingface import render_prompt

_FIRST_INDEX = 70_000_000
_PROMPTS_PER_STREAM = 5
_LEAST_PROMPTS = 20


def num_prompts(num_streams: int) -> int:
    """Prompts of a turn: the end, when streams run out of them, and one prompt's kind are to weigh little."""
    return max(_LEAST_PROMPTS, _PROMPTS_PER_STREAM * num_streams)


def prompts(pair: LoadedPair) -> Iterator[tuple[int, ...]]:
    """Token ids of questions that the pair wasn't trained on, without end and always the same."""
    index = _FIRST_INDEX
    while True:
        yield tuple(render_prompt(pair.tokenizer, draw_sample(index).query))
        index += 1
