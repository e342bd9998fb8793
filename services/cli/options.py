"""Options that commands of several families share, as typer reads them.

Owns names, help texts and defaults. Imports nothing heavy, because `trivium --help` reads it. What one family has for
itself stands in the family's own `options.py`.
"""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

DEFAULT_STATE_DIR = Path(typer.get_app_dir("trivium"))
DEFAULT_PORT = 50050
DEFAULT_HTTP_PORT = 8000
DEFAULT_ADDRESS = f"127.0.0.1:{DEFAULT_PORT}"

MAX_COUNT = 2**31 - 1
"""Most of anything that is counted, tokens of a request as well: what the contracts and Kubernetes carry."""
MAX_SEED = 2**63 - 1
"""Largest seed that stored results carry."""
MAX_SECONDS = 365 * 86_400.0
MAX_AT_A_TIME = 65_536
"""Most of what takes a thread, a process, a file or a stream each."""


class Engine(StrEnum):
    """What runs a model."""

    TRANSFORMERS = "transformers"
    SGLANG = "sglang"


def output_file(path: Path | None) -> Path | None:
    """Checks a file that a command writes in the end, maybe after hours.

    Raises:
        BadParameter: It can't be written where it is to stand.
    """
    if path is not None and (path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK)):
        raise typer.BadParameter(f"{path} can't be written")
    return path


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
    typer.Option(
        "--redis-url",
        metavar="URL",
        envvar="TRIVIUM_REDIS_URL",
        help="A Redis to use. A password in it is covered in the process list; the variable keeps it from there.",
        show_default="one is started",
    ),
]
StartTimeout = Annotated[
    float,
    typer.Option(
        "--start-timeout-s",
        min=1.0,
        max=MAX_SECONDS,
        help="Seconds until everything has to serve; model downloads count.",
    ),
]
MaxNewTokens = Annotated[
    int | None,
    typer.Option(
        "--max-new-tokens",
        min=0,
        max=MAX_COUNT,
        help="Tokens to write at most.",
        show_default="up to the context length",
    ),
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
