"""Another router for the reference pair."""

from __future__ import annotations

from pathlib import Path

import torch

from evaluation.reference.pair import WEIGHTS_DIR
from router_service.checkpoint import RouterCheckpoint, load_checkpoint, save_checkpoint


def changed_router(folder: Path, seed: int) -> Path:
    """The shipped router with some noise on its weights, at the same threshold."""
    checkpoint = load_checkpoint(WEIGHTS_DIR / "router")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weights in checkpoint.router.parameters():
            if weights.numel() > 1:
                weights.add_(0.5 * weights.std() * torch.randn(weights.shape, generator=generator))
    save_checkpoint(RouterCheckpoint(checkpoint.router, checkpoint.description, checkpoint.slm_embedding), folder)
    return folder
