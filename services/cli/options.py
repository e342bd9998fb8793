"""Options that several commands share, as typer reads them.

Owns names, help texts and defaults. Imports nothing heavy, because `trivium --help` reads it.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import typer

from services.cli.errors import CliError

DEFAULT_STATE_DIR = Path(typer.get_app_dir("trivium"))
DEFAULT_PORT = 50050
DEFAULT_ADDRESS = f"127.0.0.1:{DEFAULT_PORT}"


TargetName = Literal["llm_usage_rate", "recall", "avg_activated_params_b"]


class CalibrationTarget(NamedTuple):
    """What a default threshold is chosen for: a share of tokens, or billions of parameters."""

    name: TargetName
    value: float


def calibration_target(
    llm_usage: float | None, recall: float | None, avg_params_b: float | None
) -> CalibrationTarget | None:
    """The one target that is given, None for none.

    Raises:
        CliError: More than one is.
    """
    given: list[tuple[TargetName, float | None]] = [
        ("llm_usage_rate", llm_usage), ("recall", recall), ("avg_activated_params_b", avg_params_b)
    ]  # fmt: skip
    targets = [CalibrationTarget(name, value) for name, value in given if value is not None]
    if len(targets) > 1:
        raise CliError("give one of --target-llm-usage, --target-recall and --target-avg-params-b")
    return targets[0] if targets else None


class Engine(StrEnum):
    """What runs a model."""

    TRANSFORMERS = "transformers"
    SGLANG = "sglang"


class LossPolicy(StrEnum):
    """What a request does while no replica of the LLM is left."""

    WAIT = "wait"
    SLM_ONLY = "slm-only"
    FAIL = "fail"


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
RouterCheckpoint = Annotated[
    str | None,
    typer.Option("--router-checkpoint", metavar="DIR", help="A trained router.", show_default="the pair file's"),
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
Threshold = Annotated[
    float | None,
    typer.Option(
        "--threshold",
        help="The LLM writes a token from this divergence probability on: 0 is LLM only, above 1 SLM only.",
        show_default="the router's calibrated one",
    ),
]
TargetLlmUsage = Annotated[
    float | None,
    typer.Option(
        "--target-llm-usage",
        metavar="SHARE",
        help="Instead of a threshold: the share of tokens that the LLM writes on average, e.g. 0.1.",
    ),
]
TargetAvgParams = Annotated[
    float | None,
    typer.Option(
        "--target-avg-params-b",
        metavar="BILLIONS",
        help="Instead of a threshold: the billions of parameters that a token takes on average.",
    ),
]
CalibrateUsage = Annotated[
    float | None,
    typer.Option(
        "--target-llm-usage", min=0.0, max=1.0, metavar="SHARE", help="Tokens that the LLM writes / all tokens."
    ),
]
CalibrateRecall = Annotated[
    float | None,
    typer.Option(
        "--target-recall", min=0.0, max=1.0, metavar="SHARE", help="Divergent tokens that are routed / all of them."
    ),
]
CalibrateParams = Annotated[
    float | None,
    typer.Option("--target-avg-params-b", min=0.0, metavar="BILLIONS", help="Parameters a token takes on average."),
]
Stop = Annotated[list[str] | None, typer.Option("--stop", help="Ends the answer before this text. May be repeated.")]
Temperature = Annotated[float, typer.Option("--temperature", min=0.0, help="0 is greedy.")]
TopK = Annotated[int, typer.Option("--top-k", min=0, help="Draws from the k likeliest tokens; 0 draws from all.")]
TopP = Annotated[
    float,
    typer.Option("--top-p", min=0.0, max=1.0, help="Draws from the likeliest tokens of this total probability."),
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Draws the same answer again.")]
LlmLoss = Annotated[
    LossPolicy,
    typer.Option(
        "--llm-loss-policy",
        help="While no replica of the LLM is left: wait for one; go on with the SLM, and say for how many tokens; or "
        "fail.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Prints one JSON object instead.")]
