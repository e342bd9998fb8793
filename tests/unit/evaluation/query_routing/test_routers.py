"""Every kind of query-level router learns what can be learned, and gives the same scores for the same seed."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from evaluation.metrics import area_under_roc
from evaluation.query_routing.encoder import EncoderRouter
from evaluation.query_routing.factorization import FactorizationRouter
from evaluation.query_routing.llm_classifier import LlmClassifierRouter
from evaluation.query_routing.queries import QueryRouter, QuerySet, embed_queries
from evaluation.query_routing.similarity import SimilarityRouter
from evaluation.reference.training.architecture import build_model

VOCAB_SIZE = 20
KINDS: list[Callable[[], QueryRouter]] = [
    SimilarityRouter,
    FactorizationRouter,
    lambda: EncoderRouter(VOCAB_SIZE),
    LlmClassifierRouter,
]


def made_queries(num_queries: int, seed: int) -> tuple[QuerySet, Tensor]:
    """Queries whose third token decides whether the LLM is needed; their states show it among noise."""
    generator = torch.Generator().manual_seed(seed)
    needs_llm = (torch.rand(num_queries, generator=generator) < 0.5).float()
    prompts = []
    for needed in needs_llm.tolist():
        prompt = torch.randint(2, VOCAB_SIZE, (6,), generator=generator).tolist()
        prompts.append((*prompt[:2], int(needed), *prompt[2:]))
    states = torch.randn(num_queries, 8, generator=generator)
    states[:, 0] += 2.5 * needs_llm
    return QuerySet(tuple(prompts), states, states + 1.0), needs_llm


@pytest.mark.parametrize("kind", KINDS)
def test_query_router_ranks_unseen_queries_by_need(kind: Callable[[], QueryRouter]) -> None:
    queries, needs_llm = made_queries(400, seed=1)
    unseen, truth = made_queries(200, seed=2)
    router = kind()
    router.fit(queries, needs_llm, seed=0)
    assert area_under_roc(router.scores(unseen), truth > 0) > 0.85


@pytest.mark.parametrize("kind", KINDS)
def test_query_router_same_seed_gives_the_same_scores(kind: Callable[[], QueryRouter]) -> None:
    queries, needs_llm = made_queries(60, seed=1)
    scores = []
    for seed in (3, 3, 4):
        router = kind()
        router.fit(queries, needs_llm, seed)
        scores.append(router.scores(queries))
    assert torch.equal(scores[0], scores[1])
    assert not torch.equal(scores[0], scores[2])


def test_embed_queries_padding_changes_nothing() -> None:
    torch.manual_seed(0)
    model = build_model("slm", 0, 1).train(False)
    together = embed_queries(model, [[5, 6, 7, 8], [9, 4]])
    alone = embed_queries(model, [[9, 4]])
    assert torch.allclose(together.mean_state[1], alone.mean_state[0], atol=1e-5)
    assert torch.allclose(together.last_state[1], alone.last_state[0], atol=1e-5)
