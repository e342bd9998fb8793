"""Models, and a reader of text, as pure functions: what they say of a prefix is known without running them."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

EOS = 0
NUM_TOP_LOGITS = 100
_SCALES = (0.0, 0.1, 1.0, 10.0)


@dataclass(frozen=True)
class Models:
    """An SLM, an LLM and a router as pure functions of the prefix.

    Args:
        seed: Other models.
        vocab_size: Tokens are below it.
        agreement: Share of positions at which both models write the same.
        eos_rate: Share of positions at which a model ends.
    """

    seed: int
    vocab_size: int
    agreement: float
    eos_rate: float

    def _draw(self, name: str, prefix: Sequence[int]) -> random.Random:
        digest = hashlib.blake2b(f"{self.seed}/{name}/{list(prefix)}".encode(), digest_size=8).digest()
        return random.Random(digest)

    def llm(self, prefix: Sequence[int]) -> int:
        """The LLM's next token."""
        draw = self._draw("llm", prefix)
        return EOS if draw.random() < self.eos_rate else draw.randrange(1, self.vocab_size)

    def slm(self, prefix: Sequence[int]) -> int:
        """The SLM's next token."""
        draw = self._draw("slm", prefix)
        if draw.random() < self.agreement:
            return self.llm(prefix)
        return EOS if draw.random() < self.eos_rate else draw.randrange(1, self.vocab_size)

    def router(self, prefix: Sequence[int], draft: int) -> float:
        """The router's score of a draft, as a float32 holds it."""
        return float(np.float32(self._draw(f"router/{draft}", prefix).random()))

    def top_logits(self, prefix: Sequence[int]) -> NDArray[np.float32]:
        """The SLM's largest logits: f32 [100], descending; flat after some prefixes, steep after others."""
        draw = self._draw("logits", prefix)
        scale = draw.choice(_SCALES)
        logits = np.random.default_rng(draw.getrandbits(64)).standard_normal(NUM_TOP_LOGITS) * scale
        return np.sort(logits.astype(np.float32))[::-1]


class PairReader:
    """Reads each token as a word; the two of `stop_pair` one after the other are a stop string."""

    def __init__(self, stop_pair: tuple[int, int] | None) -> None:
        self.seen: list[int] = []
        self.finished = False
        self._stop_pair = stop_pair

    def push(self, token_id: int) -> tuple[str, str | None]:
        """Takes the next token."""
        assert not self.finished, "no token follows the end"
        self.seen.append(token_id)
        return f"{token_id} ", "stop" if tuple(self.seen[-2:]) == self._stop_pair else None

    def finish(self) -> str:
        """Returns what was held back."""
        assert not self.finished, "it ends once"
        self.finished = True
        return "held"
