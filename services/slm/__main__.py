"""Starts the small model's process: `python -m services.slm --model DIR --port 50051`."""

from __future__ import annotations

from functools import partial

import uvloop

from services.common.serving.lifecycle import Lifecycle
from services.common.serving.server import serve
from services.common.serving.settings import read_settings
from services.engines.base import ModelLoadError, SlmEngine
from services.engines.factory import EngineUnavailable, create_slm_engine
from services.slm.servicer import SERVICE_NAME, SlmServicer
from services.slm.settings import SlmSettings


def _create_engine(settings: SlmSettings) -> SlmEngine:
    try:
        return create_slm_engine(settings.engine, settings.engine_options())
    except EngineUnavailable as error:
        raise ModelLoadError(str(error)) from error


async def _serve(settings: SlmSettings) -> int:
    lifecycle = Lifecycle(SERVICE_NAME, settings.replica_id)
    servicer = SlmServicer(
        partial(_create_engine, settings),
        lifecycle,
        max_pending_bytes=settings.max_pending_mb * 2**20,
        hold_s=settings.draft_hold_ms / 1000,
    )
    return await serve(servicer, lifecycle, settings)


def main() -> None:
    """Reads the settings, serves until SIGTERM, and exits."""
    settings = read_settings(
        SlmSettings,
        prog="python -m services.slm",
        example="python -m services.slm --model Qwen/Qwen3-0.6B --port 50051",
    )
    raise SystemExit(uvloop.run(_serve(settings)))


if __name__ == "__main__":
    main()
