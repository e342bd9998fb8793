"""How one site of a response chooses between its paraphrases.

A site (an opener, a verb, a connective) prefers one of its variants, and which one it prefers is a fixed
pseudo-random function of the words around it. A large model can learn these preferences, a small one only in part, so
the two differ in wording where wording does not matter: this is where the suite's *neutral* differences come from.
"""

import random
import zlib
from collections.abc import Sequence

PREFERENCE = 0.92
"""Probability that a site uses its preferred variant."""


def preferred_index(site: str, num_variants: int, *context: str) -> int:
    """Index of the variant that `site` prefers in this context.

    Args:
        site: Name of the site, so that two sites with equal context prefer independently.
        num_variants: How many variants the site has.
        *context: Words that the preference is keyed on.

    Returns:
        An index in [0, num_variants), the same on every machine and in every run.
    """
    return zlib.crc32("|".join((site, *context)).encode()) % num_variants


def choose(rng: random.Random, site: str, variants: Sequence[str], *context: str) -> str:
    """Draws one variant: the preferred one with probability `PREFERENCE`, else any of the others."""
    preferred = preferred_index(site, len(variants), *context)
    if len(variants) == 1 or rng.random() < PREFERENCE:
        return variants[preferred]
    return rng.choice([variant for index, variant in enumerate(variants) if index != preferred])
