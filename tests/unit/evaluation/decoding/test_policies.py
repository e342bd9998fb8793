import math

import pytest
import torch
from torch import Tensor

from evaluation.decoding.policies import (
    AleatoricPolicy,
    DraftBatch,
    EntropyPolicy,
    RandomPolicy,
    RouterPolicy,
    aleatoric_uncertainty,
    entropy,
)
from router_service.model import Router, RouterConfig


def drafts(logits: Tensor, questions: list[int] | None = None, positions: list[int] | None = None) -> DraftBatch:
    rows = len(logits)
    return DraftBatch(
        top_logits=logits,
        hidden_state=torch.arange(rows * 4, dtype=torch.float32).view(rows, 4),
        token_ids=logits.argmax(dim=-1),
        questions=torch.tensor(questions or [0] * rows),
        positions=torch.tensor(positions or [0] * rows),
    )


def test_entropy_of_equal_logits_is_the_logarithm_of_their_number() -> None:
    assert float(entropy(torch.zeros(1, 8))) == pytest.approx(math.log(8))


def test_entropy_policy_certain_draft_scores_lower() -> None:
    certain, unsure = EntropyPolicy().scores(drafts(torch.tensor([[9.0, 0.0, 0.0], [1.0, 0.9, 0.8]])))
    assert certain < unsure


def test_aleatoric_uncertainty_equals_the_expected_entropy_of_its_dirichlet_distribution() -> None:
    logits = torch.tensor([5.0, 3.0, 0.5, 0.1])
    torch.manual_seed(0)
    samples = torch.distributions.Dirichlet(logits[:3]).sample((200_000,)).clamp_min(1e-30)
    expected = float(-(samples * samples.log()).sum(dim=-1).mean())
    assert float(aleatoric_uncertainty(logits, num_evidence=3)) == pytest.approx(expected, abs=3e-3)


def test_aleatoric_uncertainty_negative_logits_stay_finite() -> None:
    assert torch.isfinite(AleatoricPolicy().scores(drafts(-torch.rand(3, 12)))).all()


def test_random_policy_scores_depend_on_seed_question_and_position_alone() -> None:
    policy = RandomPolicy(seed=3)
    together = policy.scores(drafts(torch.zeros(3, 4), [0, 0, 7], [0, 1, 0]))
    alone = policy.scores(drafts(torch.ones(1, 4), [7], [0]))
    assert float(together[2]) == float(alone[0])
    assert len(set(together.tolist())) == 3
    assert not torch.equal(RandomPolicy(seed=4).scores(drafts(torch.zeros(3, 4), [0, 0, 7], [0, 1, 0])), together)


def test_random_policy_scores_are_uniform() -> None:
    scores = RandomPolicy(seed=0).scores(drafts(torch.zeros(4000, 1), list(range(4000))))
    assert float((scores < 0.1).float().mean()) == pytest.approx(0.1, abs=0.02)


def test_router_policy_scores_are_the_routers_probabilities() -> None:
    torch.manual_seed(0)
    router = Router(RouterConfig(4, num_top_logits=3, projection_size=4, hidden_size=8, num_blocks=1)).eval()
    embedding = torch.randn(5, 4)
    batch = drafts(torch.randn(2, 5))
    with torch.no_grad():
        logits = router(batch.hidden_state, batch.top_logits[:, :3], embedding[batch.token_ids])
        assert torch.equal(RouterPolicy(router, embedding).scores(batch), torch.sigmoid(logits))
