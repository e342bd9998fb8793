"""Runs the orchestrator: `python -m services.orchestrator --help`."""

from __future__ import annotations

import sys

import uvloop

from services.common.serving.lifecycle import Lifecycle
from services.common.serving.server import serve
from services.common.serving.settings import read_settings
from services.orchestrator.process import OrchestratorService
from services.orchestrator.settings import OrchestratorSettings


async def _main(settings: OrchestratorSettings) -> int:
    lifecycle = Lifecycle("trivium.v1.OrchestratorService", settings.replica_id)
    try:
        service = OrchestratorService(settings, lifecycle)
    except ValueError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return await serve(service, lifecycle, settings, service.door)


def main() -> None:
    """Entry point."""
    settings = read_settings(
        OrchestratorSettings,
        prog="python -m services.orchestrator",
        example="python -m services.orchestrator --slm 127.0.0.1:50051 --router 127.0.0.1:50052 "
        "--llm 127.0.0.1:50053 --tokenizer evaluation/reference/weights/slm",
    )
    sys.exit(uvloop.run(_main(settings)))


if __name__ == "__main__":
    main()
