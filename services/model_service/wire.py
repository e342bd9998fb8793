"""Turns the engines' values into `trivium.v1` messages and back.

Owns the meaning of fields left unset on the wire. Token ids and lengths are the engine's to check.
"""

from __future__ import annotations

import dataclasses
import logging
import math

from trivium.v1 import common_pb2

from services.common.errors import InvalidRequest, TriviumError
from services.engines.base import GREEDY, EngineLoad, ModelInfo, SamplingParams

logger = logging.getLogger(__name__)


def sampling_params(message: common_pb2.SamplingParams | None) -> SamplingParams:
    """Reads how tokens are chosen.

    Args:
        message: As received; None where the field is absent, which is greedy.

    Raises:
        InvalidRequest: A value is out of its range.
    """
    if message is None:
        return GREEDY
    if not math.isfinite(message.temperature) or message.temperature < 0:
        raise InvalidRequest(f"sampling.temperature: must be finite and >= 0, got {message.temperature}")
    if not 0 <= message.top_p <= 1:
        raise InvalidRequest(f"sampling.top_p: must be in (0, 1], or 0 for unset, got {message.top_p}")
    return SamplingParams(
        temperature=message.temperature, top_k=message.top_k, top_p=message.top_p or 1.0, seed=message.seed
    )


def model_info(info: ModelInfo, weights_revision: str = "") -> common_pb2.ModelInfo:
    """Describes a model to a peer.

    Args:
        info: The model.
        weights_revision: Which weights it has, where a router depends on them.
    """
    return common_pb2.ModelInfo(
        model_id=info.model_id,
        revision=info.revision,
        vocab_size=info.vocab_size,
        hidden_size=info.hidden_size,
        tokenizer_sha256=info.tokenizer_sha256,
        num_parameters=info.num_parameters,
        context_length=info.context_len,
        eos_token_ids=info.eos_token_ids,
        engine=info.engine,
        weights_revision=weights_revision,
    )


def engine_load(load: EngineLoad) -> common_pb2.EngineLoad:
    """Describes to a peer what an engine is doing."""
    return common_pb2.EngineLoad(**dataclasses.asdict(load))


def sequence_error(sequence_id: int, error: Exception, *, pass_id: int = 0) -> common_pb2.SequenceError:
    """Tells a peer that one sequence of a stream was refused.

    Args:
        sequence_id: The sequence.
        error: Why.
        pass_id: Of the extension that was refused, if it was one.

    An error that isn't meant for peers is logged here, and told as an internal one.
    """
    if not isinstance(error, TriviumError):
        logger.error("sequence failed", exc_info=error)
        error = TriviumError("internal error")
    number: int = error.code.value[0]
    return common_pb2.SequenceError(
        sequence_id=sequence_id,
        code=number,
        message=str(error),
        need_from=getattr(error, "need_from", None),
        pass_id=pass_id,
    )
