from __future__ import annotations

import numpy as np
import pytest

from services.engines.base import SamplingParams
from services.engines.sampling import sample_token

LOGITS = np.log(np.array([0.5, 0.3, 0.15, 0.05], dtype=np.float32))


def draw_many(sampling: SamplingParams, num_draws: int = 4000) -> np.ndarray:
    tokens = [sample_token(LOGITS, sampling, position) for position in range(num_draws)]
    return np.bincount(tokens, minlength=4) / num_draws


def test_same_seed_and_position_draw_the_same_token() -> None:
    sampling = SamplingParams(temperature=1.0, seed=3)
    assert len({sample_token(LOGITS, sampling, 17) for _ in range(20)}) == 1


def test_other_seeds_and_positions_draw_other_tokens() -> None:
    by_position = [sample_token(LOGITS, SamplingParams(temperature=1.0, seed=3), position) for position in range(50)]
    by_seed = [sample_token(LOGITS, SamplingParams(temperature=1.0, seed=seed), 3) for seed in range(50)]
    assert len(set(by_position)) > 1
    assert len(set(by_seed)) > 1
    assert by_position != by_seed


def test_draws_follow_the_softmax() -> None:
    np.testing.assert_allclose(draw_many(SamplingParams(temperature=1.0)), [0.5, 0.3, 0.15, 0.05], atol=0.03)


def test_temperature_sharpens_and_flattens() -> None:
    weights = np.array([0.5, 0.3, 0.15, 0.05])
    for temperature in (0.5, 2.0):
        expected = weights ** (1 / temperature)
        np.testing.assert_allclose(
            draw_many(SamplingParams(temperature=temperature)), expected / expected.sum(), atol=0.03
        )


def test_top_k_keeps_the_most_likely() -> None:
    np.testing.assert_allclose(draw_many(SamplingParams(temperature=1.0, top_k=2)), [5 / 8, 3 / 8, 0, 0], atol=0.03)


@pytest.mark.parametrize(("top_p", "num_kept"), [(0.1, 1), (0.5, 1), (0.51, 2), (0.8, 2), (0.9, 3), (1.0, 4)])
def test_top_p_keeps_the_smallest_set_that_reaches_it(top_p: float, num_kept: int) -> None:
    assert np.count_nonzero(draw_many(SamplingParams(temperature=1.0, top_p=top_p))) == num_kept


def test_top_p_counts_what_top_k_has_left() -> None:
    sampling = SamplingParams(temperature=1.0, top_k=2, top_p=0.6)
    assert np.count_nonzero(draw_many(sampling)) == 1


@pytest.mark.parametrize(("seed", "position"), [(0, 0), (2**64 - 1, 5), (-1, 5), (2**63, 10**6)])
def test_any_seed_and_position_draws_a_token(seed: int, position: int) -> None:
    assert 0 <= sample_token(LOGITS, SamplingParams(temperature=1.0, seed=seed), position) < 4


def test_a_small_change_of_the_logits_rarely_changes_the_token() -> None:
    sampling = SamplingParams(temperature=1.0, seed=9)
    changed = LOGITS + np.array([1e-5, -1e-5, 1e-5, -1e-5], dtype=np.float32)
    num_changed = sum(
        sample_token(LOGITS, sampling, position) != sample_token(changed, sampling, position)
        for position in range(2000)
    )
    assert num_changed <= 2
