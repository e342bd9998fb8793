"""Starts the large model's process: `python -m services.llm --model DIR --port 50052`."""

from __future__ import annotations

from functools import partial

import uvloop

from services.common.serving.lifecycle import Lifecycle
from services.common.serving.server import serve
from services.common.serving.settings import read_settings
from services.engines.base import LlmEngine, ModelLoadError
from services.engines.factory import EngineUnavailable, create_llm_engine
from services.llm.servicer import SERVICE_NAME, LlmServicer
from services.llm.settings import LlmSettings


def _create_engine(settings: LlmSettings) -> LlmEngine:
    try:
        return create_llm_engine(settings.engine, settings.engine_options())
    except EngineUnavailable as error:
        raise ModelLoadError(str(error)) from error


async def _serve(settings: LlmSettings) -> int:
    lifecycle = Lifecycle(SERVICE_NAME, settings.replica_id)
    servicer = LlmServicer(
        partial(_create_engine, settings), lifecycle, max_pending_bytes=settings.max_pending_mb * 2**20
    )
    return await serve(servicer, lifecycle, settings)


def main() -> None:
    """Reads the settings, serves until SIGTERM, and exits."""
    settings = read_settings(
        LlmSettings,
        prog="python -m services.llm",
        example="python -m services.llm --model Qwen/Qwen3-8B --port 50052",
    )
    raise SystemExit(uvloop.run(_serve(settings)))


if __name__ == "__main__":
    main()
