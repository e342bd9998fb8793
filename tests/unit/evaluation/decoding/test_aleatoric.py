import numpy as np
import pytest
import torch

from evaluation.decoding.aleatoric import AleatoricRule, aleatoric_uncertainty
from services.rules.rule import DraftRows


def test_uncertainty_equals_the_expected_entropy_of_its_dirichlet_distribution() -> None:
    logits = torch.tensor([5.0, 3.0, 0.5, 0.1])
    torch.manual_seed(0)
    samples = torch.distributions.Dirichlet(logits[:3]).sample((200_000,)).clamp_min(1e-30)
    expected = float(-(samples * samples.log()).sum(dim=-1).mean())
    assert float(aleatoric_uncertainty(logits, num_evidence=3)) == pytest.approx(expected, abs=3e-3)


def test_scores_of_negative_logits_stay_finite() -> None:
    logits = -np.random.default_rng(0).random((3, 12), dtype=np.float32)
    assert np.isfinite(AleatoricRule().scores(DraftRows(logits, np.zeros(3, dtype=np.int64)))).all()
