"""The suite: queries with responses in three domains, and splits that never meet.

Each sample is a pure function of its index, and each split owns a range of indices. Held-out and validation queries
that also occur in the training range are skipped, so nothing that is measured was trained on.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Literal

from evaluation.reference.corpus import code_domain, math_domain, qa_domain

Domain = Literal["math", "code", "qa"]
Split = Literal["train", "validation", "held_out"]

DOMAINS: tuple[Domain, ...] = ("math", "code", "qa")
_DRAW = {"math": math_domain.draw_query, "code": code_domain.draw_query, "qa": qa_domain.draw_query}
_FIRST_INDEX: dict[Split, int] = {"train": 0, "validation": 50_000_000, "held_out": 60_000_000}
MAX_NEW_TOKENS = 220
"""More than any response of the suite has, in tokens of the pair."""
NUM_TRAIN = 120_000
"""Size of the training range; deduplication looks at all of it."""
NUM_VALIDATION = 2_000
"""Most samples that the validation split gives."""


@dataclass(frozen=True)
class Sample:
    """One query of the suite.

    Attributes:
        index: The number that it was drawn from.
        domain: One of "math", "code", "qa".
        query: The user's message.
        response: One correct response, thoughts included.
        answer: The number that a correct response ends with.
    """

    index: int
    domain: Domain
    query: str
    response: str
    answer: int


def draw_sample(index: int) -> Sample:
    """Draws the sample with this index; the domains take turns."""
    domain = DOMAINS[index % len(DOMAINS)]
    query, response, answer = _DRAW[domain](random.Random(index))
    return Sample(index, domain, query, response, answer)


def training_samples(num_samples: int = NUM_TRAIN) -> Iterator[Sample]:
    """Yields the first `num_samples` samples of the training range."""
    if num_samples > NUM_TRAIN:
        raise ValueError(f"the training range holds {NUM_TRAIN} samples, not {num_samples}")
    return map(draw_sample, range(num_samples))


def unseen_samples(split: Split, num_samples: int) -> list[Sample]:
    """Draws samples that no model was trained on.

    Args:
        split: "validation" or "held_out".
        num_samples: How many, over all domains.

    Returns:
        Samples with distinct queries. None of them occurs in the training range, and none of the held-out ones in the
        validation range.

    Raises:
        ValueError: If the split is "train", or more is asked of the validation range than it holds.
    """
    if split == "train":
        raise ValueError("the training range is seen; ask for validation or held_out")
    if split == "validation" and num_samples > NUM_VALIDATION:
        raise ValueError(f"the validation range holds {NUM_VALIDATION} samples, not {num_samples}")
    seen = set(_training_queries())
    if split == "held_out":
        first = _FIRST_INDEX["validation"]
        seen.update(draw_sample(index).query for index in range(first, first + 2 * NUM_VALIDATION))
    found: list[Sample] = []
    index = _FIRST_INDEX[split]
    while len(found) < num_samples:
        sample = draw_sample(index)
        index += 1
        if sample.query not in seen:
            seen.add(sample.query)
            found.append(sample)
    return found


@cache
def _training_queries() -> frozenset[str]:
    return frozenset(sample.query for sample in training_samples())
