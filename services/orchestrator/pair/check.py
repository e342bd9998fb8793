"""Decides whether an SLM, an LLM and a router, where there is one, belong together, and sums up the pair.

Owns the rules. Pure: descriptions in, a summary or an error out.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

from trivium.v1 import common_pb2, router_pb2

from services.common.errors import RouterModelMismatch, TokenizerMismatch
from services.common.model_sizes import ModelSizes
from services.common.threshold_table import usage_points
from services.common.weights import are_other_weights


@dataclass(frozen=True, slots=True)
class ServedPair:
    """A pair that fits together.

    Args:
        models_identity: 16 bytes that differ for other models. KV depends on these alone.
        vocab_size: Ids below it are valid for both models.
        eos_token_ids: Ids that end a sequence, of either model.
        sizes: Of the three models; without a router, that has 0.
        slm: The small model.
        router_weights: SHA-256 of the weights of the router that new sequences get; empty without a router.
        default_threshold: That router's calibrated threshold; None without one.
        sweep: Threshold and LLM usage of each row of the router's validation sweep; empty where it carries none.
    """

    models_identity: bytes
    vocab_size: int
    eos_token_ids: frozenset[int]
    sizes: ModelSizes
    slm: common_pb2.ModelInfo
    router_weights: str
    default_threshold: float | None
    sweep: tuple[tuple[float, float], ...] = ()


def check_pair(
    slm: common_pb2.ModelInfo,
    llm: common_pb2.ModelInfo,
    router: router_pb2.RouterInfo | None,
    *,
    tokenizer_sha256: str,
    num_tokenizer_ids: int,
    allow_other_slm: bool = False,
) -> ServedPair:
    """Checks that the services of a pair belong together, and with the tokenizer in front of them.

    The same tokenizer must stand behind all. The models' vocabularies may differ in size, since models of one family
    pad them differently (151936 and 152064 ids in one of the paper's pairs): what must hold is that every id of the
    tokenizer is valid for both. Ids in the padding have no text, and no trained model writes them.

    The router has learned from one SLM's hidden states and embeddings: its tokenizer, hidden size and vocabulary must
    be exactly the SLM's, and so must the weights, as far as both sides name them alike.

    Args:
        slm: What the SLM service serves.
        llm: What the LLM service serves.
        router: What the router service serves; None in a pair without one.
        tokenizer_sha256: Fingerprint of the orchestrator's own tokenizer.
        num_tokenizer_ids: Number of its ids, added tokens included.
        allow_other_slm: Let a router judge an SLM of other weights than it was trained with.

    Raises:
        TokenizerMismatch: SLM, LLM and orchestrator don't share a tokenizer, or a vocabulary is too small for it.
        RouterModelMismatch: The router was trained for another SLM.
    """
    _check_models(slm, llm, tokenizer_sha256, num_tokenizer_ids)
    pair = ServedPair(
        models_identity=_digest(model_identity(slm), model_identity(llm)),
        vocab_size=min(slm.vocab_size, llm.vocab_size),
        eos_token_ids=frozenset(slm.eos_token_ids) | frozenset(llm.eos_token_ids),
        sizes=ModelSizes(slm.num_parameters, 0, llm.num_parameters),
        slm=slm,
        router_weights="",
        default_threshold=None,
    )
    return with_router(pair, router, allow_other_slm=allow_other_slm) if router is not None else pair


def with_router(pair: ServedPair, router: router_pb2.RouterInfo, *, allow_other_slm: bool = False) -> ServedPair:
    """The pair with this router.

    Args:
        pair: The pair.
        router: What the router service serves.
        allow_other_slm: As of `check_pair`.

    Raises:
        RouterModelMismatch: The router was trained for another SLM.
    """
    check_router(pair.slm, router, allow_other_slm=allow_other_slm)
    return replace(
        pair,
        sizes=replace(pair.sizes, router=router.num_parameters),
        router_weights=router.weights_sha256,
        default_threshold=router.default_threshold,
        sweep=_sweep(router),
    )


def model_identity(info: common_pb2.ModelInfo) -> tuple[object, ...]:
    """What two replicas of one model have in common."""
    return (
        *(info.model_id, info.revision, info.weights_revision),
        *(info.num_parameters, info.vocab_size, info.tokenizer_sha256),
    )


def _digest(*parts: object) -> bytes:
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).digest()


def _sweep(router: router_pb2.RouterInfo) -> tuple[tuple[float, float], ...]:
    rows = (
        (
            row.threshold,
            row.llm_usage_rate,
            row.decoded_llm_usage_rate if row.HasField("decoded_llm_usage_rate") else None,
        )
        for row in router.threshold_table
    )
    return tuple(usage_points(rows))


def _check_models(
    slm: common_pb2.ModelInfo, llm: common_pb2.ModelInfo, tokenizer_sha256: str, num_tokenizer_ids: int
) -> None:
    if slm.tokenizer_sha256 != llm.tokenizer_sha256:
        raise TokenizerMismatch(
            f"tokenizer_sha256: slm {slm.model_id!r} has {slm.tokenizer_sha256}, "
            f"llm {llm.model_id!r} has {llm.tokenizer_sha256}"
        )
    if tokenizer_sha256 != slm.tokenizer_sha256:
        raise TokenizerMismatch(
            f"tokenizer_sha256: the orchestrator's tokenizer has {tokenizer_sha256}, "
            f"slm {slm.model_id!r} and llm {llm.model_id!r} have {slm.tokenizer_sha256}"
        )
    if min(slm.vocab_size, llm.vocab_size) < num_tokenizer_ids:
        raise TokenizerMismatch(
            f"vocab_size: the tokenizer has {num_tokenizer_ids} ids, "
            f"slm {slm.model_id!r} takes {slm.vocab_size}, llm {llm.model_id!r} takes {llm.vocab_size}"
        )


def check_router(slm: common_pb2.ModelInfo, router: router_pb2.RouterInfo, *, allow_other_slm: bool = False) -> None:
    """Checks that a router was trained with an SLM; raises as `with_router` does."""
    for field, of_router, of_slm in (
        ("tokenizer_sha256", router.tokenizer_sha256, slm.tokenizer_sha256),
        ("hidden_size", router.hidden_size, slm.hidden_size),
        ("vocab_size", router.vocab_size, slm.vocab_size),
    ):
        if of_router != of_slm:
            raise RouterModelMismatch(
                f"{field}: router {router.checkpoint!r} was trained with {of_router} of slm {router.slm_model_id!r}, "
                f"slm {slm.model_id!r} has {of_slm}"
            )
    if not allow_other_slm and are_other_weights(router.slm_revision, slm.weights_revision):
        raise RouterModelMismatch(
            f"weights_revision: router {router.checkpoint!r} was trained with {router.slm_revision} of slm "
            f"{router.slm_model_id!r}, slm {slm.model_id!r} has {slm.weights_revision}; "
            "--allow-other-slm lets them serve all the same"
        )
