import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from router_service.model import Layout, Router
from router_service.training.recipe import RouterRecipe, RouterTraining
from router_service.training.routing_data import Batch, RoutingData
from router_service.training.state import EpochRecord, TrainingStateError
from router_service.training.train import (
    learning_rate_at,
    predict_logits,
    standardise_inputs,
    target_weight,
    train_router,
)
from tests.unit.router_service.made import EMBEDDING, HIDDEN, RECIPE, made_data

STATE = "state.safetensors"


class Killed(Exception):
    pass


def with_training(**changes: object) -> RouterRecipe:
    return RECIPE.model_copy(update={"training": RECIPE.training.model_copy(update=changes)})


def weights(router: Router) -> list[torch.Tensor]:
    return list(router.state_dict().values())


def are_equal(first: Router, second: Router) -> bool:
    return all(torch.equal(one, other) for one, other in zip(weights(first), weights(second), strict=True))


def test_train_router_learns_what_the_hidden_state_tells() -> None:
    validation = made_data(400, seed=2)
    router, epochs = train_router(RECIPE, made_data(1500, seed=1), validation, EMBEDDING, seed=1)
    right = (predict_logits(router, validation, EMBEDDING) > 0) == validation.divergent
    assert right.float().mean() > 0.9
    assert epochs[-1].validation_auc > 0.95
    assert not router.training


def test_train_router_objective_decides_what_is_learned() -> None:
    data = made_data(1500, seed=1)
    different = RoutingData(data.hidden_state, data.top_logits, data.token_ids, data.labels, "different")
    router, _ = train_router(RECIPE, different, different, EMBEDDING, seed=1)
    neutral = data.labels == 1
    assert (predict_logits(router, data, EMBEDDING)[neutral] > 0).float().mean() > 0.7


def test_train_router_same_seed_gives_the_same_weights_whatever_the_global_generator_says() -> None:
    data = made_data(300, seed=1)
    first, _ = train_router(RECIPE, data, data, EMBEDDING, seed=7)
    torch.rand(3)
    before = torch.get_rng_state()
    second, _ = train_router(RECIPE, data, data, EMBEDDING, seed=7)
    assert are_equal(first, second)
    assert torch.equal(torch.get_rng_state(), before)


def test_train_router_another_seed_gives_other_weights() -> None:
    data = made_data(300, seed=1)
    first, second = (train_router(RECIPE, data, data, EMBEDDING, seed=seed)[0] for seed in (1, 2))
    assert not are_equal(first, second)


@pytest.mark.parametrize(("epoch", "step"), [(1, 2), (2, 0), (3, 4), (4, 4)])
def test_train_router_killed_and_resumed_gives_the_same_weights(tmp_path: Path, epoch: int, step: int) -> None:
    data, validation = made_data(300, seed=1), made_data(200, seed=2)
    whole, epochs = train_router(RECIPE, data, validation, EMBEDDING, seed=3)

    def until_killed(batches: Iterable[Batch], num_steps: int, current: int) -> Iterable[Batch]:
        assert num_steps == 5
        for at, batch in enumerate(batches):
            if (current, at) == (epoch, step):
                raise Killed
            yield batch

    path = tmp_path / STATE
    with pytest.raises(Killed):
        train_router(RECIPE, data, validation, EMBEDDING, seed=3, state_path=path, show_steps=until_killed)
    assert path.exists() == (epoch > 1)
    seen: list[EpochRecord] = []
    resumed, again = train_router(RECIPE, data, validation, EMBEDDING, seed=3, state_path=path, on_epoch=seen.append)
    assert are_equal(whole, resumed)
    assert again == epochs
    assert [record.epoch for record in seen] == list(range(epoch, 5))


@pytest.mark.parametrize("change", [{"recipe": with_training(max_epochs=9)}, {"seed": 2}], ids=["recipe", "seed"])
def test_train_router_state_of_another_recipe_or_seed_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    data, path = made_data(200, seed=1), tmp_path / STATE
    given: dict[str, Any] = {
        "recipe": RECIPE,
        "train_data": data,
        "validation_data": data,
        "slm_embedding": EMBEDDING,
        "seed": 1,
    }
    train_router(**given, state_path=path)
    with pytest.raises(TrainingStateError, match=f"{path}: is of a training with another recipe, seed or dataset"):
        train_router(**given | change, state_path=path)


@pytest.mark.parametrize("role", ["train_data", "validation_data"])
@pytest.mark.parametrize(
    "change",
    [
        {"hidden_state": made_data(200, seed=5).hidden_state},
        {"top_logits": made_data(200, seed=5).top_logits},
        {"token_ids": made_data(200, seed=5).token_ids},
        {"labels": made_data(200, seed=5).labels},
        {"objective": "different"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_train_router_state_of_other_rows_is_refused(tmp_path: Path, role: str, change: dict[str, Any]) -> None:
    data, path = made_data(200, seed=1), tmp_path / STATE
    given: dict[str, Any] = {
        "recipe": RECIPE,
        "train_data": data,
        "validation_data": data,
        "slm_embedding": EMBEDDING,
        "seed": 1,
    }
    train_router(**given, state_path=path)
    with pytest.raises(TrainingStateError, match=f"{path}: is of a training with another recipe, seed or dataset"):
        train_router(**given | {role: dataclasses.replace(data, **change)}, state_path=path)


def test_train_router_state_of_another_embedding_is_refused(tmp_path: Path) -> None:
    data, path = made_data(200, seed=1), tmp_path / STATE
    train_router(RECIPE, data, data, EMBEDDING, seed=1, state_path=path)
    with pytest.raises(TrainingStateError, match=f"{path}: is of a training with another recipe, seed or dataset"):
        train_router(RECIPE, data, data, EMBEDDING + 1, seed=1, state_path=path)


def test_train_router_damaged_state_names_the_file(tmp_path: Path) -> None:
    data, path = made_data(200, seed=1), tmp_path / STATE
    train_router(RECIPE, data, data, EMBEDDING, seed=1, state_path=path)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(TrainingStateError, match=str(path)):
        train_router(RECIPE, data, data, EMBEDDING, seed=1, state_path=path)


def test_train_router_stops_when_validation_no_longer_improves() -> None:
    data = made_data(300, seed=1)
    flipped = RoutingData(data.hidden_state, data.top_logits, data.token_ids, 2 - data.labels)
    _, epochs = train_router(with_training(max_epochs=40, patience=2), data, flipped, EMBEDDING, seed=1)
    losses = [epoch.validation_loss for epoch in epochs]
    assert len(losses) < 40
    assert losses.index(min(losses)) == len(losses) - 1 - 2


def test_train_router_warms_up() -> None:
    data = made_data(300, seed=1)
    recipe = with_training(warmup_steps=10, max_epochs=3)
    _, epochs = train_router(recipe, data, data, EMBEDDING, seed=1)
    rate = RECIPE.training.learning_rate
    assert [epoch.learning_rate for epoch in epochs] == pytest.approx([rate / 2, rate, rate])


def test_learning_rate_cosine_falls_from_the_peak_to_nearly_nothing() -> None:
    training = RouterTraining(learning_rate=1.0, warmup_steps=0, schedule="cosine")
    rates = [learning_rate_at(training, step, 100) for step in range(1, 101)]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] == 1.0
    assert rates[50] == pytest.approx(0.5)
    assert 0.0 < rates[-1] < 0.001


def test_learning_rate_constant_stays_after_the_warm_up() -> None:
    training = RouterTraining(learning_rate=1.0, warmup_steps=4)
    assert [learning_rate_at(training, step, 100) for step in (1, 2, 4, 5, 100)] == [0.25, 0.5, 1.0, 1.0, 1.0]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_train_router_on_a_gpu_in_half_precision_resumes_to_the_same_weights(tmp_path: Path) -> None:
    data, path = made_data(300, seed=1), tmp_path / STATE
    whole, epochs = train_router(RECIPE, data, data, EMBEDDING, seed=3, device="cuda")

    def until_killed(batches: Iterable[Batch], num_steps: int, epoch: int) -> Iterable[Batch]:
        if epoch == 3:
            raise Killed
        return batches

    with pytest.raises(Killed):
        train_router(RECIPE, data, data, EMBEDDING, seed=3, device="cuda", state_path=path, show_steps=until_killed)
    resumed, again = train_router(RECIPE, data, data, EMBEDDING, seed=3, device="cuda", state_path=path)
    assert are_equal(whole, resumed)
    assert again == epochs
    assert epochs[-1].validation_auc > 0.9


def test_target_weight_is_inverse_to_frequency() -> None:
    assert target_weight(torch.tensor([True, False, False, False])) == 3.0


@pytest.mark.parametrize("value", [True, False])
def test_target_weight_one_class_alone_is_refused(value: bool) -> None:
    with pytest.raises(ValueError, match="both classes"):
        target_weight(torch.full((5,), value))


@pytest.mark.parametrize("layout", get_args(Layout))
def test_standardise_inputs_gives_the_router_what_it_would_make_of_centred_inputs(layout: Layout) -> None:
    torch.manual_seed(0)
    config = dataclasses.replace(RECIPE.router_config(HIDDEN), layout=layout)
    router, data = Router(config).eval(), made_data(500, seed=3)
    given = [data.hidden_state, data.top_logits, EMBEDDING[data.token_ids]]
    centred = [(values - values.mean(dim=0)) / values.std(dim=0, correction=0) for values in given]
    expected = router(*centred)
    standardise_inputs(router, data, EMBEDDING)
    torch.testing.assert_close(router(*given), expected, atol=1e-4, rtol=1e-4)
