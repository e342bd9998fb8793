"""Options of `trivium up`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from services.cli.options import MAX_SECONDS

Port = Annotated[int, typer.Option("--port", min=0, max=65535, help="The orchestrator's; 0 picks one.")]
HttpPort = Annotated[int, typer.Option("--http-port", min=0, max=65535, help="The gateway's; 0 picks one.")]
RouterCheckpoint = Annotated[
    str | None,
    typer.Option("--router-checkpoint", metavar="DIR", help="A trained router.", show_default="the pair file's"),
]
Rule = Annotated[
    str | None,
    typer.Option(
        "--rule",
        metavar="NAME[:PARAMETER=NUMBER,…]",
        help="The rule of requests that name none. With one that asks no router, such as `entropy`, a pair is served "
        "that has none, or none yet.",
        show_default="the pair file's, else the router's",
    ),
]
NewRouter = Annotated[
    Path, typer.Argument(metavar="DIR", help="The checkpoint: router.json and router.safetensors.", exists=True)
]
SwapTimeout = Annotated[
    float, typer.Option("--timeout-s", min=1.0, max=MAX_SECONDS, help="Seconds until it has to be served.")
]
