"""Starts the router's process: `python -m router_service --checkpoint DIR --port 50053`."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import uvloop

from router_service.checkpoint_files import CHECKPOINT_FILES
from router_service.serving.followed import CheckpointSource
from router_service.serving.servicer import SERVICE_NAME, RouterServicer
from router_service.serving.settings import RouterSettings
from router_service.serving.versions import RowScorer
from services.common.serving.lifecycle import Lifecycle
from services.common.serving.server import serve
from services.common.serving.settings import read_settings


def _source(settings: RouterSettings, checkpoint: Path) -> CheckpointSource:
    return CheckpointSource(partial(_load, settings, checkpoint), [checkpoint / name for name in CHECKPOINT_FILES])


def _load(settings: RouterSettings, checkpoint: Path) -> RowScorer:
    # Imports torch, which takes seconds: the process listens by then, and `--help` needs none of it.
    from router_service.serving.scorer import Scorer

    return Scorer(
        # A link may be led elsewhere while what it leads to is read.
        checkpoint.resolve(),
        settings.slm_model,
        settings.device,
        settings.num_threads,
        allow_other_slm=settings.allow_other_slm,
    )


async def _serve(settings: RouterSettings) -> int:
    lifecycle = Lifecycle(SERVICE_NAME, settings.replica_id)
    servicer = RouterServicer(
        _source(settings, settings.checkpoint),
        lifecycle,
        shadow=_source(settings, settings.shadow_checkpoint) if settings.shadow_checkpoint else None,
        max_versions=settings.max_versions,
        max_batch_rows=settings.max_batch_rows,
        max_waiting_rows=settings.max_waiting_rows,
        max_pending_bytes=settings.max_pending_mb * 2**20,
    )
    return await serve(servicer, lifecycle, settings)


def main() -> None:
    """Reads the settings, serves until SIGTERM, and exits."""
    settings = read_settings(
        RouterSettings,
        prog="python -m router_service",
        example="python -m router_service --checkpoint checkpoints/router --slm-model models/slm --port 50053",
    )
    raise SystemExit(uvloop.run(_serve(settings)))


if __name__ == "__main__":
    main()
