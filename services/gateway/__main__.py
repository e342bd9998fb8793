"""Runs the gateway: `python -m services.gateway --help`."""

from __future__ import annotations

import sys

import uvloop

from services.common.serving.settings import read_settings
from services.gateway.process import serve
from services.gateway.settings import GatewaySettings


def main() -> None:
    """Entry point."""
    settings = read_settings(
        GatewaySettings,
        prog="python -m services.gateway",
        example="python -m services.gateway --orchestrator 127.0.0.1:50050 --port 8000",
    )
    sys.exit(uvloop.run(serve(settings)))


if __name__ == "__main__":
    main()
