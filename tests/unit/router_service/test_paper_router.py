"""The router at the paper's size, on made features of its pair's dimensions."""

from pathlib import Path

import torch

from router_service.checkpoint import RouterCheckpoint, load_checkpoint, save_checkpoint
from router_service.description import ModelIdentity, RouterDescription
from router_service.model import Router
from router_service.training.recipe import load_router_config
from router_service.training.routing_data import RoutingData
from router_service.training.train import predict_logits, train_router

HIDDEN, LOGITS, VOCAB, ROWS = 1536, 100, 151, 64
RECIPE = load_router_config("r2r-56m")


def made_rows(generator: torch.Generator) -> RoutingData:
    return RoutingData(
        hidden_state=torch.randn(ROWS, HIDDEN, generator=generator).half(),
        top_logits=(torch.rand(ROWS, LOGITS, generator=generator) * 30).sort(descending=True).values.half(),
        token_ids=torch.randint(0, VOCAB, (ROWS,), generator=generator),
        labels=torch.randint(0, 3, (ROWS,), generator=generator, dtype=torch.int8),
    )


def test_paper_router_has_the_layers_of_the_appendix() -> None:
    with torch.device("meta"):
        router = Router(RECIPE.router_config(HIDDEN))
    linear = {
        name: tuple(module.weight.shape) for name, module in router.named_modules() if hasattr(module, "weight")
    }
    assert len(router.blocks) == 6
    assert linear["blocks.0.expand"] == (4096, 1024)
    assert linear["blocks.5.contract"] == (1024, 4096)
    assert [name for name in linear if name.startswith("projections")] == ["projections.top_logits"]
    assert linear["projections.top_logits"] == (HIDDEN, LOGITS)
    assert linear["merge"] == (1024, 3 * HIDDEN)
    assert linear["input_projection"] == (1024, 1024)
    assert router.num_parameters == 56_302_081


def test_paper_router_trains_and_survives_a_round_trip(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    data, embedding = made_rows(generator), torch.randn(VOCAB, HIDDEN, generator=generator)
    training = RECIPE.training.model_copy(update={"max_epochs": 1, "batch_size": ROWS // 2, "warmup_steps": 1})
    recipe = RECIPE.model_copy(update={"training": training})
    losses = []
    router, _ = train_router(
        recipe, data, data, embedding, seed=1, on_epoch=lambda epoch: losses.append(epoch.validation_loss)
    )
    assert losses[0] < 1.2
    identity = ModelIdentity("made", "r", VOCAB, HIDDEN, "00")
    description = RouterDescription(router.config, identity, identity, threshold=0.5)
    save_checkpoint(RouterCheckpoint(router, description), tmp_path)
    loaded = load_checkpoint(tmp_path)
    assert loaded.description == description
    assert torch.equal(predict_logits(loaded.router, data, embedding), predict_logits(router, data, embedding))
