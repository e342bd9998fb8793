import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from router_service.published.layout import DEFAULT_THRESHOLD, PublishedRouter, parse_published
from router_service.published.reading import PublishedFile, PublishedRouterError
from tests.unit.router_service.published.made_files import made_content, made_features, made_state, published_scores

HIDDEN = 12
FILE = Path("some/default_router.pt")


def made_file(state: dict[str, torch.Tensor], **changes: Any) -> PublishedFile:
    """As `read_published_file` returns it."""
    fields = made_content(state, **changes)
    tensors = fields.pop("state_dict")
    return PublishedFile(FILE, tensors, fields | {"init_args": fields["init_args"]})


def parsed(**changes: Any) -> PublishedRouter:
    return parse_published(made_file(made_state(HIDDEN), **changes))


def test_published_router_scores_as_its_definition_says() -> None:
    state = made_state(HIDDEN, num_blocks=3)
    router = parse_published(made_file(state)).router
    token_ids, hidden_states, logits = made_features(HIDDEN)
    embeddings = torch.randn(704, HIDDEN)[token_ids]
    with torch.no_grad():
        scores = torch.sigmoid(router(hidden_states, logits, embeddings))
    expected = published_scores(state, hidden_states, embeddings, logits)
    torch.testing.assert_close(scores, expected, atol=1e-6, rtol=0)
    assert expected.std() > 0.02


def test_published_router_takes_its_sizes_from_the_tensors() -> None:
    config = parsed().router.config
    assert (config.slm_hidden_size, config.num_top_logits, config.hidden_size) == (HIDDEN, 100, 16)
    assert (config.num_blocks, config.expansion, config.layout) == (2, 4, "logits_projected")


def test_published_router_is_in_evaluation_mode_with_its_own_dropout() -> None:
    router = parsed(init_args__dropout_rate=0.25).router
    assert not router.training
    assert router.config.dropout == 0.25


@pytest.mark.parametrize(("threshold", "expected"), [(0.3861, 0.3861), (0, 0.0), (1, 1.0), (None, DEFAULT_THRESHOLD)])
def test_threshold_is_the_files(threshold: float | None, expected: float) -> None:
    assert parsed(common_args__threshold=threshold).threshold == expected


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_floating_type_become_float32(dtype: torch.dtype) -> None:
    state = {name: value.to(dtype) for name, value in made_state(HIDDEN).items()}
    router = parse_published(made_file(state)).router
    assert torch.equal(router.merge.weight, state["combined_projection.weight"].float())


def test_embedding_in_the_file_is_kept_apart_from_the_router() -> None:
    embedding = torch.randn(20, HIDDEN).half()
    published = parse_published(made_file(made_state(HIDDEN) | {"token_embeddings.weight": embedding}))
    assert published.slm_embedding is embedding


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "HiddenStatesLogitsClassifier"}, "model_type: is 'HiddenStatesLogitsClassifier'"),
        ({"model_type": None}, "model_type: is None"),
        ({"init_args": None}, "init_args: is missing, or no dict"),
        ({"init_args__normalize_input": True}, "init_args.normalize_input: is True"),
        ({"init_args__use_position_embedding": True}, "init_args.use_position_embedding: is True"),
        ({"init_args__neural_window_size": 3}, "init_args.neural_window_size: is unknown"),
        (
            {"init_args__hidden_dims": [16, 8]},
            r"init_args.hidden_dims: is \[16, 8\]; the tensors make 2 blocks of 16",
        ),
        ({"init_args__dropout_rate": "much"}, "init_args.dropout_rate: must be a number"),
        ({"init_args__dropout_rate": 1.5}, "dropout must lie in"),
        ({"common_args": []}, "common_args: is missing, or no dict"),
        ({"common_args__threshold": float("nan")}, "common_args.threshold: must be a number"),
        ({"common_args__threshold": 1.01}, "common_args.threshold: must be a number"),
        ({"common_args__threshold": "0.5"}, "common_args.threshold: must be a number"),
        ({"common_args__threshold": True}, "common_args.threshold: must be a number"),
        ({"common_args__input_type": ["hidden_states", "logits"]}, "common_args.input_type: is"),
        ({"common_args__input_type": 7}, "common_args.input_type: is 7"),
    ],
)
def test_field_that_makes_another_router_is_refused_by_file_and_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(PublishedRouterError, match=rf"^some/default_router\.pt: .*{message}"):
        parsed(**changes)


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("combined_projection.weight", None, "is missing"),
        ("backbone.blocks.0.mlp.0.weight", None, "is missing"),
        ("backbone.input_projection.bias", None, "is missing"),
        ("backbone.blocks.1.mlp.3.bias", None, "is missing"),
        (
            "backbone.blocks.1.dim_change.weight",
            torch.zeros(16, 16),
            "is a tensor that Trivium's router doesn't have",
        ),
        ("layer_norm_token.weight", torch.zeros(HIDDEN), "is a tensor that Trivium's router doesn't have"),
        ("backbone.position_embedding", torch.zeros(9, 16), "is a tensor that Trivium's router doesn't have"),
        ("backbone.output_layer.1.weight", torch.zeros(3, 16), r"has shape \(3, 16\), expected \(1, 16\)"),
        ("backbone.output_layer.1.bias", torch.zeros(3), r"has shape \(3,\), expected \(1,\)"),
        ("combined_projection.weight", torch.zeros(16, 30), r"has shape \(16, 30\); three inputs of 12"),
        ("combined_projection.weight", torch.zeros(16), r"has shape \(16,\), not that of a linear layer"),
        ("combined_projection.weight", torch.zeros(0, 36), r"has shape \(0, 36\), not that of a linear layer"),
        ("logits_projection.weight", torch.zeros(HIDDEN, 50), "reads 50 logits; SLM services send 100"),
        ("backbone.blocks.1.mlp.0.weight", torch.zeros(32, 16), r"has shape \(32, 16\), expected \(64, 16\)"),
        ("backbone.blocks.0.mlp.0.weight", torch.zeros(8, 16), "expansion must be at least 1"),
        ("backbone.blocks.7.mlp.0.weight", torch.zeros(64, 16), "backbone.blocks.2|doesn't have"),
        ("backbone.output_layer.0.bias", torch.full((16,), torch.inf), "holds values that are not finite"),
        ("backbone.blocks.1.mlp.3.weight", torch.full((16, 64), torch.nan), "holds values that are not finite"),
    ],
)
def test_tensor_that_makes_another_router_is_refused_by_file_and_name(
    name: str, tensor: torch.Tensor | None, message: str
) -> None:
    file = made_file(made_state(HIDDEN))
    tensors = {key: value for key, value in file.tensors.items() if key != name}
    if tensor is not None:
        tensors[name] = tensor
    with pytest.raises(PublishedRouterError, match=rf"^some/default_router\.pt: .*({message})"):
        parse_published(dataclasses.replace(file, tensors=tensors))
