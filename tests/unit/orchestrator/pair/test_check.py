from typing import Any

import pytest
from trivium.v1 import common_pb2, router_pb2

from services.common.errors import RouterModelMismatch, TokenizerMismatch, TriviumError
from services.common.model_sizes import ModelSizes
from services.orchestrator.pair.check import ServedPair, check_pair

WEIGHTS, OTHER_WEIGHTS = "11" * 8, "22" * 8
SHA = "aa" * 32
OTHER_SHA = "bb" * 32


def make_slm(**changes: Any) -> common_pb2.ModelInfo:
    info: dict[str, Any] = {
        "model_id": "small",
        "vocab_size": 151_936,
        "hidden_size": 64,
        "tokenizer_sha256": SHA,
        "num_parameters": 1_500_000_000,
        "context_length": 4096,
        "eos_token_ids": [7],
    }
    return common_pb2.ModelInfo(**(info | changes))


def make_llm(**changes: Any) -> common_pb2.ModelInfo:
    info: dict[str, Any] = {
        "model_id": "large",
        "vocab_size": 152_064,
        "hidden_size": 512,
        "tokenizer_sha256": SHA,
        "num_parameters": 32_000_000_000,
        "context_length": 2048,
        "eos_token_ids": [7, 9],
    }
    return common_pb2.ModelInfo(**(info | changes))


def make_router(**changes: Any) -> router_pb2.RouterInfo:
    info: dict[str, Any] = {
        "checkpoint": "judge",
        "slm_model_id": "trained-on",
        "vocab_size": 151_936,
        "hidden_size": 64,
        "tokenizer_sha256": SHA,
        "num_parameters": 56_000_000,
        "default_threshold": 0.5,
    }
    return router_pb2.RouterInfo(**(info | changes))


def check(**changes: Any) -> ServedPair:
    members: dict[str, Any] = {"slm": make_slm(), "llm": make_llm(), "router": make_router()}
    tokenizer: dict[str, Any] = {"tokenizer_sha256": SHA, "num_tokenizer_ids": 151_665}
    return check_pair(**(members | tokenizer | changes))


def test_check_vocabularies_padded_differently_make_a_pair() -> None:
    assert check() == ServedPair(
        models_identity=check().models_identity,
        vocab_size=151_936,
        eos_token_ids=frozenset({7, 9}),
        sizes=ModelSizes(1_500_000_000, 56_000_000, 32_000_000_000),
        slm=make_slm(),
        router_weights="",
        default_threshold=0.5,
    )


def test_check_without_a_router_makes_a_pair_of_two() -> None:
    pair = check(router=None)
    assert (pair.default_threshold, pair.sweep) == (None, ())
    assert pair.sizes == ModelSizes(1_500_000_000, 0, 32_000_000_000)
    assert pair.models_identity == check().models_identity
    assert (pair.router_weights, check(router=make_router(weights_sha256="ab")).router_weights) == ("", "ab")


@pytest.mark.parametrize(
    "members",
    [
        {"slm": make_slm(model_id="other")},
        {"slm": make_slm(revision="v2")},
        {"llm": make_llm(model_id="other")},
        {"llm": make_llm(num_parameters=8_000_000_000)},
    ],
)
def test_pairs_of_other_models_have_other_identities(members: dict[str, Any]) -> None:
    assert check(**members).models_identity != check().models_identity


def test_pairs_of_another_router_are_of_the_same_models() -> None:
    other = check(router=make_router(weights_sha256="cc" * 32))

    assert other.models_identity == check().models_identity
    assert other.router_weights == "cc" * 32


def test_pairs_of_other_contexts_have_the_same_identities() -> None:
    other = check(llm=make_llm(context_length=512))

    assert other.models_identity == check().models_identity


@pytest.mark.parametrize(
    ("members", "error", "named"),
    [
        ({"llm": make_llm(tokenizer_sha256=OTHER_SHA)}, TokenizerMismatch, ["small", "large", SHA, OTHER_SHA]),
        ({"tokenizer_sha256": OTHER_SHA}, TokenizerMismatch, ["orchestrator", "small", "large", SHA, OTHER_SHA]),
        ({"num_tokenizer_ids": 151_937}, TokenizerMismatch, ["small", "large", "151936", "152064", "151937"]),
        ({"llm": make_llm(vocab_size=151_664)}, TokenizerMismatch, ["small", "large", "151936", "151664", "151665"]),
        (
            {"router": make_router(tokenizer_sha256=OTHER_SHA)},
            RouterModelMismatch,
            ["judge", "small", SHA, OTHER_SHA],
        ),
        ({"router": make_router(hidden_size=65)}, RouterModelMismatch, ["hidden_size", "judge", "small", "64", "65"]),
        ({"slm": make_slm(vocab_size=152_064)}, RouterModelMismatch, ["vocab_size", "small", "151936", "152064"]),
        (
            {"slm": make_slm(weights_revision=WEIGHTS), "router": make_router(slm_revision=OTHER_WEIGHTS)},
            RouterModelMismatch,
            ["judge", "trained-on", OTHER_WEIGHTS, "small", WEIGHTS, "--allow-other-slm"],
        ),
    ],
)
def test_check_members_that_do_not_fit_raise_an_error_naming_both(
    members: dict[str, Any], error: type[TriviumError], named: list[str]
) -> None:
    with pytest.raises(error) as raised:
        check(**members)

    assert all(name in str(raised.value) for name in named)


@pytest.mark.parametrize(
    "members",
    [
        {"slm": make_slm(weights_revision=WEIGHTS), "router": make_router(slm_revision=WEIGHTS)},
        {"slm": make_slm(weights_revision="33" * 20), "router": make_router(slm_revision=WEIGHTS)},
        {"slm": make_slm(weights_revision="main"), "router": make_router(slm_revision=WEIGHTS)},
        {
            "slm": make_slm(weights_revision=WEIGHTS),
            "router": make_router(slm_revision=OTHER_WEIGHTS),
            "allow_other_slm": True,
        },
    ],
    ids=["same", "commit_and_digest", "branch", "insisted"],
)
def test_check_router_of_the_slms_weights_or_of_unknown_or_allowed_ones_makes_a_pair(members: dict[str, Any]) -> None:
    assert check(**members).vocab_size == 151_936


def test_pairs_of_other_weights_under_one_name_have_other_identities() -> None:
    other = check(slm=make_slm(weights_revision=WEIGHTS))

    assert other.models_identity != check().models_identity
