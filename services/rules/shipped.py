"""The rules that come with Trivium."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from services.rules.decider import Always, Decider, Draft, Stateless, Threshold, Verdict
from services.rules.rule import DraftRows, Evidence, Parameter, Rule


def _threshold(scale: str, default: float | None) -> dict[str, Parameter]:
    return {"threshold": Parameter(f"Ask the LLM at {scale} of at least this; 0 asks always.", default=default)}


class _Shipped:
    """What is alike in most of them."""

    version = "1"
    evidence = Evidence.NONE
    needs_llm = True
    parameters: Mapping[str, Parameter] = {}

    def scores(self, rows: DraftRows) -> NDArray[np.float32]:
        """Isn't asked."""
        raise NotImplementedError


class _Thresholded(_Shipped):
    """Asks the LLM where the score reaches the threshold of the request."""

    def decider(self, parameters: Mapping[str, float]) -> Decider:
        """Decides by the score."""
        return Threshold(parameters["threshold"])


class RouterRule(_Thresholded):
    """Asks the LLM where the router predicts a divergence (arXiv:2505.21600 §4.2)."""

    name = "router"
    evidence = Evidence.ROUTER
    parameters = _threshold("a divergence probability", default=None)


class EntropyRule(_Thresholded):
    """Asks the LLM where the SLM is undecided: by the entropy of its 100 likeliest tokens, in nats."""

    name = "entropy"
    evidence = Evidence.SLM
    # About a fifth of the tokens of a reasoning model's answers are above it (arXiv:2506.01939 §3).
    parameters = _threshold("an entropy in nats", default=0.672)

    def scores(self, rows: DraftRows) -> NDArray[np.float32]:
        """Entropy in nats."""
        log_p = _log_softmax(rows.top_logits)
        return np.asarray(-(np.exp(log_p) * log_p).sum(axis=-1), dtype=np.float32)


class MarginRule(_Thresholded):
    """Asks the LLM where the SLM's two likeliest tokens are close: by 1 - (p1 - p2), in [0, 1]."""

    name = "margin"
    evidence = Evidence.SLM
    parameters = _threshold("1 - (p1 - p2)", default=0.5)

    def scores(self, rows: DraftRows) -> NDArray[np.float32]:
        """1 - (p1 - p2)."""
        first, second = np.exp(_log_softmax(rows.top_logits)[:, :2]).T
        return np.asarray(1 - (first - second), dtype=np.float32)


class LosslessRule(_Shipped):
    """Lets a draft stand if the LLM would write the same: the output is the LLM's, as in speculative decoding."""

    name = "lossless"

    def decider(self, parameters: Mapping[str, float]) -> Decider:
        """Has every draft confirmed."""
        return Always(Verdict.CONFIRM)


class SlmRule(_Shipped):
    """Lets every draft stand."""

    name = "slm"
    needs_llm = False

    def decider(self, parameters: Mapping[str, float]) -> Decider:
        """Accepts all."""
        return Always(Verdict.ACCEPT)


class LlmRule(_Shipped):
    """Has the LLM write every token."""

    name = "llm"

    def decider(self, parameters: Mapping[str, float]) -> Decider:
        """Asks always."""
        return Always(Verdict.ASK)


class RandomRule(_Shipped):
    """Asks the LLM at random, for studies: a position's draw depends on the seed and the position alone."""

    name = "random"
    parameters: Mapping[str, Parameter] = {
        "rate": Parameter("Share of positions at which the LLM is asked.", default=0.1, most=1.0),
        "seed": Parameter("Draws other positions.", default=0, most=2**32 - 1, whole=True),
    }

    def decider(self, parameters: Mapping[str, float]) -> Decider:
        """Decides by the draw."""
        return _RandomDecider(parameters["rate"], int(parameters["seed"]))


SHIPPED: tuple[Rule, ...] = (
    RouterRule(),
    EntropyRule(),
    MarginRule(),
    LosslessRule(),
    SlmRule(),
    LlmRule(),
    RandomRule(),
)
"""All of them, the paper's first."""


class _RandomDecider(Stateless):
    def __init__(self, rate: float, seed: int) -> None:
        self._rate, self._seed = rate, seed

    def verdict(self, draft: Draft) -> Verdict:
        digest = blake2b(struct.pack("<QQ", self._seed, draft.position), digest_size=8).digest()
        draw = int.from_bytes(digest, "little") / 2**64
        return Verdict.ASK if draw < self._rate else Verdict.ACCEPT


def _log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))
