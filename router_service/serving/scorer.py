"""Runs the router: features of drafted tokens in, divergence probabilities out.

Owns the router's weights while they serve, and the SLM's input embedding. Doesn't batch and doesn't check features.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from trivium.v1 import router_pb2

from router_service.checkpoint import RouterCheckpoint, check_slm_weights, load_checkpoint, load_slm_embedding
from router_service.checkpoint_files import WEIGHTS_FILE, CheckpointError
from router_service.model import divergence_probability


class Scorer:
    """A router ready to score. One call at a time.

    Args:
        folder: Directory of the checkpoint.
        slm_model: Directory of the SLM, read where the checkpoint holds no embedding.
        device: torch device.
        num_threads: CPU threads of every forward in this process; 0 leaves torch's default.
        allow_other_slm: Take an SLM of other weights there than the router was trained with.

    Raises:
        CheckpointError: A file is missing or damaged, or the SLM doesn't fit; the message names it.
    """

    def __init__(
        self,
        folder: Path,
        slm_model: Path | None = None,
        device: str = "cpu",
        num_threads: int = 0,
        *,
        allow_other_slm: bool = False,
    ) -> None:
        if num_threads:
            torch.set_num_threads(num_threads)
        checkpoint = load_checkpoint(folder)
        self.num_top_logits = checkpoint.description.config.num_top_logits
        self.info = _describe(folder, checkpoint)
        self._device = torch.device(device)
        self._router = checkpoint.router.to(self._device)
        self._embedding = _embedding(folder, checkpoint, slm_model).to(self._device)
        if checkpoint.slm_embedding is None and slm_model is not None and not allow_other_slm:
            check_slm_weights(slm_model, checkpoint.description.slm, folder)

    @torch.inference_mode()
    def score(
        self,
        token_ids: NDArray[np.int64],
        hidden_states: NDArray[np.float32],
        top_logits: NDArray[np.float32],
    ) -> NDArray[np.float32]:
        """Scores drafted tokens in one forward.

        Args:
            token_ids: [rows], each in the SLM's vocabulary.
            hidden_states: [rows, hidden], writable.
            top_logits: [rows, num_top_logits], writable.

        Returns:
            [rows] divergence probabilities in [0, 1], 1 where the router's arithmetic overflows. No row depends on
            another, save for the last bits of a matrix product, which may change with the number of rows.
        """
        embeddings = self._embedding[self._tensor(token_ids)]
        logits = self._router(self._tensor(hidden_states), self._tensor(top_logits), embeddings)
        probabilities: NDArray[np.float32] = divergence_probability(logits).cpu().numpy()
        return probabilities

    def warm_up(self, num_rows: int) -> None:
        """Runs one forward of this many rows."""
        self.score(
            np.zeros(num_rows, np.int64),
            np.zeros((num_rows, self.info.hidden_size), np.float32),
            np.zeros((num_rows, self.num_top_logits), np.float32),
        )

    def _tensor(self, array: NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(array).to(self._device)


def _embedding(folder: Path, checkpoint: RouterCheckpoint, slm_model: Path | None) -> torch.Tensor:
    slm = checkpoint.description.slm
    embedding = checkpoint.slm_embedding
    if embedding is None:
        if slm_model is None:
            raise CheckpointError(f"{folder}: holds no SLM embedding; name the directory of the SLM with --slm-model")
        embedding = load_slm_embedding(slm_model)
    # A model may pad its embedding beyond the vocabulary, never the other way round.
    if embedding.size(0) < slm.vocab_size or embedding.size(1) != slm.hidden_size:
        raise CheckpointError(
            f"{slm_model or folder}: the SLM embedding has shape {tuple(embedding.shape)}, "
            f"the router was trained with ({slm.vocab_size}, {slm.hidden_size})"
        )
    return embedding


def _describe(folder: Path, checkpoint: RouterCheckpoint) -> router_pb2.RouterInfo:
    description = checkpoint.description
    with (folder / WEIGHTS_FILE).open("rb") as weights:
        weights_sha256 = hashlib.file_digest(weights, "sha256").hexdigest()
    info = router_pb2.RouterInfo(
        checkpoint=str(folder),
        weights_sha256=weights_sha256,
        num_parameters=checkpoint.router.num_parameters,
        hidden_size=description.slm.hidden_size,
        vocab_size=description.slm.vocab_size,
        tokenizer_sha256=description.slm.tokenizer_sha256,
        slm_model_id=description.slm.model_id,
        slm_revision=description.slm.revision,
        default_threshold=description.threshold,
    )
    for row in sorted(description.sweep, key=lambda row: row.threshold):
        info.threshold_table.add(
            threshold=row.threshold,
            llm_usage_rate=row.llm_usage_rate,
            recall=row.recall,
            precision=row.precision,
            avg_activated_params_b=row.avg_activated_params_b,
            decoded_llm_usage_rate=row.decoded_llm_usage_rate,
        )
    return info
