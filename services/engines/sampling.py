"""Chooses a token from logits, the same one each time.

Owns temperature, top-k, top-p and the counter-based noise. Greedy choices never come here.

The noise of position t is a function of (seed, t) alone, one number a vocabulary entry. A position that is drafted
again, by another replica or by the other model, meets the same noise.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from services.engines.base import SamplingParams

_WORD = (1 << 64) - 1


def sample_token(logits: NDArray[np.float32], sampling: SamplingParams, position: int) -> int:
    """Draws a token by the Gumbel-max rule: argmax of scaled logits plus noise, among the tokens that are kept.

    Args:
        logits: [vocab] float32, raw.
        sampling: `temperature` above 0. Top-k is applied before top-p, both after the temperature.
        position: Index in the sequence of the token that is drawn, prompt included.

    Returns:
        The token id.
    """
    return int(np.argmax(perturbed_logits(logits, sampling, position)))


def perturbed_logits(logits: NDArray[np.float32], sampling: SamplingParams, position: int) -> NDArray[np.float64]:
    """What `sample_token` takes the largest of: [vocab], scaled, with noise; -inf for tokens that aren't kept."""
    scaled = logits.astype(np.float64) / sampling.temperature
    kept = _top_p(_top_k(scaled, sampling.top_k), sampling.top_p)
    return kept + _gumbel_noise(len(logits), sampling.seed, position)


def _gumbel_noise(num_values: int, seed: int, position: int) -> NDArray[np.float64]:
    generator = np.random.Generator(np.random.Philox(key=np.array([seed & _WORD, position & _WORD], dtype=np.uint64)))
    uniform = generator.random(num_values)
    # random() may return 0, of which there is no logarithm.
    noise: NDArray[np.float64] = -np.log(-np.log(np.maximum(uniform, np.finfo(np.float64).tiny)))
    return noise


def _top_k(scaled: NDArray[np.float64], top_k: int) -> NDArray[np.float64]:
    if not 0 < top_k < len(scaled):
        return scaled
    return _keep(scaled, np.argsort(-scaled, kind="stable")[:top_k])


def _top_p(scaled: NDArray[np.float64], top_p: float) -> NDArray[np.float64]:
    if top_p >= 1.0:
        return scaled
    order = np.argsort(-scaled, kind="stable")
    weights = np.exp(scaled[order] - scaled[order[0]])
    mass_before = np.cumsum(weights) - weights
    return _keep(scaled, order[mass_before < top_p * weights.sum()])


def _keep(scaled: NDArray[np.float64], indices: NDArray[np.intp]) -> NDArray[np.float64]:
    kept = np.full_like(scaled, -np.inf)
    kept[indices] = scaled[indices]
    return kept
