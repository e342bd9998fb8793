"""Options that commands of several families share, as typer reads them.

Owns names, help texts and defaults. Imports nothing heavy, because `trivium --help` reads it. What one family has for
itself stands in the family's own `options.py`.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

DEFAULT_STATE_DIR = Path(typer.get_app_dir("trivium"))
DEFAULT_PORT = 50050
DEFAULT_HTTP_PORT = 8000
DEFAULT_ADDRESS = f"127.0.0.1:{DEFAULT_PORT}"


class Engine(StrEnum):
    """What runs a model."""

    TRANSFORMERS = "transformers"
    SGLANG = "sglang"


StateDir = Annotated[
    Path,
    typer.Option(
        "--state-dir",
        envvar="TRIVIUM_STATE_DIR",
        help="Where commands find the running pair; logs go to its `logs` folder.",
        show_default=str(DEFAULT_STATE_DIR),
    ),
]
Address = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="HOST:PORT",
        help="The orchestrator.",
        show_default=f"the pair that `trivium up` runs here, else {DEFAULT_ADDRESS}",
    ),
]
PairName = Annotated[
    str, typer.Option("--pair", metavar="NAME|FILE", help="A pair that ships with Trivium, or a YAML file.")
]
EngineName = Annotated[
    Engine | None, typer.Option("--engine", help="Runs both models with this engine.", show_default="the pair file's")
]
RedisUrl = Annotated[
    str | None,
    typer.Option("--redis-url", metavar="URL", help="A Redis to use.", show_default="one is started"),
]
StartTimeout = Annotated[
    float,
    typer.Option("--start-timeout-s", min=1.0, help="Seconds until everything has to serve; model downloads count."),
]
MaxNewTokens = Annotated[
    int | None,
    typer.Option("--max-new-tokens", help="Tokens to write at most.", show_default="up to the context length"),
]
RoutingRule = Annotated[
    str | None,
    typer.Option(
        "--rule",
        metavar="NAME[:PARAMETER=NUMBER,…]",
        help="What decides who writes a token: router, entropy, margin, lossless, slm, llm, random, or one that "
        "another package brings. E.g. `entropy:threshold=0.7`.",
        show_default="the server's",
    ),
]
Threshold = Annotated[
    float | None,
    typer.Option(
        "--threshold",
        help="The LLM writes a token from this score on; the router's is a divergence probability: 0 is LLM only, "
        "above 1 SLM only.",
        show_default="the rule's; the router's is calibrated",
    ),
]
AllowOtherSlm = Annotated[
    bool,
    typer.Option("--allow-other-slm", help="Takes a router for an SLM of other weights than it was trained with."),
]
Json = Annotated[bool, typer.Option("--json", help="Prints one JSON object instead.")]
