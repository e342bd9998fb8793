"""A score depends on its row alone: it is the same alone, in any batch, in any order, and when it is asked again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from services.rule_suite.models import Models
from services.rules.rule import DraftRows, Rule

_MODELS = Models(seed=0, vocab_size=100, agreement=0.5, eos_rate=0.02)


@dataclass(frozen=True)
class ScoredBatch:
    """Drafts of one step.

    Args:
        row_seeds: What each row is drawn from.
        order: The same rows in another order, by index.
    """

    row_seeds: tuple[int, ...]
    order: tuple[int, ...]


def rows_of(row_seeds: Sequence[int]) -> DraftRows:
    """The rows that are drawn from some seeds. They can't be written to, as those of a message can't."""
    top_logits = np.stack([_MODELS.top_logits((seed,)) for seed in row_seeds])
    token_ids = np.array([_MODELS.slm((seed,)) for seed in row_seeds], dtype=np.int64)
    top_logits.flags.writeable = token_ids.flags.writeable = False
    return DraftRows(top_logits, token_ids)


def batches(rule: Rule) -> st.SearchStrategy[ScoredBatch]:
    """Batches of a few rows."""
    seeds = st.lists(st.integers(0, 2**16), min_size=1, max_size=8)
    return seeds.flatmap(
        lambda drawn: st.builds(ScoredBatch, st.just(tuple(drawn)), st.permutations(range(len(drawn))).map(tuple))
    )


def broken_scores(rule: Rule, batch: ScoredBatch) -> str | None:
    """How a rule that scores drafts breaks the promise of its scores; None if it doesn't."""
    seeds = batch.row_seeds
    together = rule.scores(rows_of(seeds))
    if problem := _broken_form(together, len(seeds)):
        return problem
    again = rule.scores(rows_of(seeds))
    moved = rule.scores(rows_of([seeds[index] for index in batch.order]))
    for index, score in enumerate(together.tolist()):
        alone = rule.scores(rows_of([seeds[index]]))
        others = {
            "when it is asked again": again[index],
            "alone": alone[0],
            "in another order": moved[batch.order.index(index)],
        }
        for where, other in others.items():
            if score != other:
                return f"row {index} of {len(seeds)} has {score!r}, and {float(other)!r} {where}"
    return None


def _broken_form(scores: NDArray[np.float32], num_rows: int) -> str | None:
    if not isinstance(scores, np.ndarray):
        return f"expected f32 [{num_rows}], got {scores!r}"
    if scores.dtype != np.float32 or scores.shape != (num_rows,):
        return f"expected f32 [{num_rows}], got {scores.dtype} {list(scores.shape)}"
    if not np.isfinite(scores).all():
        return f"expected finite numbers, got {scores.tolist()}"
    return None
