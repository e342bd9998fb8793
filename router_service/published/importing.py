"""From a published router's file to a checkpoint that serves.

Owns what is held against the SLM that it is to serve, and what the checkpoint says of itself. It knows neither its
LLM nor a sweep: `router_service.training.recalibrate` fills both in.
"""

from pathlib import Path

import torch
from torch import Tensor

from router_service.checkpoint import (
    RouterCheckpoint,
    count_stored_parameters,
    load_slm_embedding,
    save_checkpoint,
)
from router_service.description import ModelIdentity, RouterDescription
from router_service.published.layout import EMBEDDING, parse_published
from router_service.published.reading import PublishedRouterError, ReadingLimits, read_published_file


def import_router(
    file: Path,
    slm: ModelIdentity,
    slm_dir: Path,
    out: Path,
    *,
    with_embedding: bool = False,
    allow_other_slm: bool = False,
    limits: ReadingLimits | None = None,
) -> RouterDescription:
    """Writes a published router as a checkpoint.

    Args:
        file: What the authors published.
        slm: The small model that it is for.
        slm_dir: That model's folder; its embedding and its size are read.
        out: The checkpoint's folder; one that is there is replaced at the very end.
        with_embedding: Store the SLM's embedding in the checkpoint; else the service reads it from the SLM.
        allow_other_slm: Take an SLM whose embedding isn't the one that the file holds.
        limits: What reading the file may take.

    Returns:
        What the checkpoint says about itself.

    Raises:
        PublishedRouterError: The file can't be imported, or belongs to another SLM; the message names the field.
        CheckpointError: The SLM's files can't be used.
    """
    published = parse_published(read_published_file(file, limits))
    embedding = load_slm_embedding(slm_dir)
    width = published.router.config.slm_hidden_size
    if embedding.size(0) < slm.vocab_size or embedding.size(1) != width:
        raise PublishedRouterError(
            f"{file}: combined_projection.weight: reads {width} columns of an SLM's hidden state; {slm_dir}: "
            f"{slm.model_id!r} has a hidden size of {embedding.size(1)} and {embedding.size(0)} rows of embedding"
        )
    if published.slm_embedding is not None and not allow_other_slm:
        _check_embedding(file, published.slm_embedding, slm, slm_dir, embedding)
    description = RouterDescription(
        config=published.router.config,
        slm=slm,
        llm=None,
        threshold=published.threshold,
        metrics={"slm_params": float(count_stored_parameters(slm_dir))},
    )
    save_checkpoint(RouterCheckpoint(published.router, description, _stored(embedding, slm, with_embedding)), out)
    return description


def _check_embedding(file: Path, found: Tensor, slm: ModelIdentity, slm_dir: Path, embedding: Tensor) -> None:
    """The file's embedding was the frozen one of the SLM that it learned from, perhaps rounded."""
    if not torch.equal(found, embedding.to(found.dtype)):
        raise PublishedRouterError(
            f"{file}: {EMBEDDING}: of shape {tuple(found.shape)}, isn't the input embedding of {slm.model_id!r} "
            f"{slm.revision} in {slm_dir}: it belongs to another SLM; --allow-other-slm takes it all the same"
        )


def _stored(embedding: Tensor, slm: ModelIdentity, with_embedding: bool) -> Tensor | None:
    # Rows beyond the vocabulary are padding.
    return embedding[: slm.vocab_size] if with_embedding else None
