import pytest
import torch

from router_service.dataset import RoutingData
from router_service.model import Router, RouterConfig
from router_service.train import (
    RouterTraining,
    divergent_weight,
    predict_logits,
    standardise_inputs,
    train_router,
)

CONFIG = RouterConfig(slm_hidden_size=6, num_top_logits=5, projection_size=4, hidden_size=8, num_blocks=1)
EMBEDDING = torch.randn(11, 6, generator=torch.Generator().manual_seed(9))


def separable_data(rows: int, seed: int) -> RoutingData:
    generator = torch.Generator().manual_seed(seed)
    hidden_state = torch.randn(rows, 6, generator=generator) * 3 + 5
    top_logits = torch.randn(rows, 5, generator=generator).sort(descending=True).values * 20
    token_ids = torch.randint(0, 11, (rows,), generator=generator)
    return RoutingData(hidden_state, top_logits, token_ids, hidden_state[:, 0] > 8)


def test_train_router_learns_what_the_hidden_state_tells() -> None:
    validation = separable_data(400, seed=2)
    training = RouterTraining(batch_size=64, max_epochs=10, learning_rate=5e-3)
    router = train_router(CONFIG, training, separable_data(1500, seed=1), validation, EMBEDDING)
    right = (predict_logits(router, validation, EMBEDDING) > 0) == validation.divergent
    assert right.float().mean() > 0.9
    assert not router.training


def test_train_router_same_seed_gives_the_same_weights() -> None:
    training = RouterTraining(batch_size=64, max_epochs=2)
    data = separable_data(300, seed=1)
    first, second = (train_router(CONFIG, training, data, data, EMBEDDING).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_train_router_stops_when_validation_no_longer_improves() -> None:
    data = separable_data(300, seed=1)
    flipped = RoutingData(data.hidden_state, data.top_logits, data.token_ids, ~data.divergent)
    losses: list[float] = []
    training = RouterTraining(batch_size=64, max_epochs=40, patience=2, learning_rate=3e-3)
    router = train_router(CONFIG, training, data, flipped, EMBEDDING, lambda _, loss: losses.append(loss))
    assert len(losses) < 40
    assert losses.index(min(losses)) == len(losses) - 1 - 2
    assert router is not None


def test_divergent_weight_is_inverse_to_frequency() -> None:
    assert divergent_weight(torch.tensor([True, False, False, False])) == 3.0


@pytest.mark.parametrize("value", [True, False])
def test_divergent_weight_one_class_alone_is_refused(value: bool) -> None:
    with pytest.raises(ValueError, match="both classes"):
        divergent_weight(torch.full((5,), value))


def test_standardise_inputs_leaves_a_linear_map_of_centred_inputs() -> None:
    torch.manual_seed(0)
    router, data = Router(CONFIG), separable_data(500, seed=3)
    plain_bias = router.projections["hidden_state"].get_parameter("bias").clone()
    standardise_inputs(router, data, EMBEDDING)
    projected = router.projections["hidden_state"](data.hidden_state)
    torch.testing.assert_close(projected.mean(dim=0), plain_bias, atol=1e-4, rtol=0)


def test_routing_data_of_unequal_length_is_refused() -> None:
    with pytest.raises(ValueError, match="token_ids has 3 rows"):
        RoutingData(torch.zeros(4, 6), torch.zeros(4, 5), torch.zeros(3, dtype=torch.long), torch.zeros(4) > 0)


def test_batches_cover_every_row_once_with_its_embedding() -> None:
    data = separable_data(10, seed=4)
    seen = []
    for (hidden_state, _, embedding), _ in data.batches(EMBEDDING, 4, torch.Generator().manual_seed(0)):
        for row, given in zip(hidden_state, embedding, strict=True):
            at = int((data.hidden_state == row).all(dim=1).nonzero())
            assert torch.equal(given, EMBEDDING[data.token_ids[at]])
            seen.append(at)
    assert sorted(seen) == list(range(10))
