import torch

from evaluation.decoding.router_scorer import RouterScorer
from router_service.model import Router, RouterConfig


def test_scores_are_the_routers_probabilities() -> None:
    torch.manual_seed(0)
    router = Router(RouterConfig(4, num_top_logits=3, projection_size=4, hidden_size=8, num_blocks=1)).eval()
    embedding, hidden_state, top_logits = torch.randn(5, 4), torch.randn(2, 4), torch.randn(2, 5)
    token_ids = torch.tensor([4, 1])
    with torch.no_grad():
        logits = router(hidden_state, top_logits[:, :3], embedding[token_ids])
        assert torch.equal(
            RouterScorer(router, embedding).scores(hidden_state, top_logits, token_ids), logits.sigmoid()
        )
