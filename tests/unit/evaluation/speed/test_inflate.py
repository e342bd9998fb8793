from typing import Any

import pytest
import torch

from evaluation.reference.training.architecture import build_model
from evaluation.speed.inflate import inflate, layers_for_ratio
from labeler_jobs.models.huggingface import generate_ids


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(0)
    return build_model("mid", 0, 1).train(False)


def test_inflate_outputs_are_equal_bit_for_bit(model: Any) -> None:
    inflated: Any = inflate(model, 5)
    token_ids = torch.randint(2, 700, (3, 40), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        mine, theirs = inflated(input_ids=token_ids).logits, model(input_ids=token_ids).logits
    assert torch.equal(mine, theirs)
    assert len(inflated.base_model.layers) == inflated.config.num_hidden_layers == 8


def test_inflate_generates_the_same_tokens_from_a_kv_cache_of_more_layers(model: Any) -> None:
    prompts = [[5, 6, 7], [8, 9]]
    assert generate_ids(inflate(model, 2), prompts, 12) == generate_ids(model, prompts, 12)


def test_inflate_leaves_the_original_as_it_is(model: Any) -> None:
    inflate(model, 2)
    assert len(model.base_model.layers) == model.config.num_hidden_layers == 3
    assert bool(model.base_model.layers[0].mlp.down_proj.weight.any())


def test_inflate_negative_number_of_layers_is_refused(model: Any) -> None:
    with pytest.raises(ValueError, match="num_extra_layers is -1"):
        inflate(model, -1)


def test_layers_for_ratio_makes_up_what_is_missing() -> None:
    assert layers_for_ratio(4.0, 1.0, 0.5, ratio=21) == 34
    assert layers_for_ratio(30.0, 1.0, 0.5, ratio=21) == 0
