"""Options of the commands that ask an orchestrator for answers."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.cli.errors import CliError
from services.cli.options import MAX_SECONDS

if TYPE_CHECKING:
    from services.client import Options

DEFAULT_TIMEOUT_S = 600.0


class LossPolicy(StrEnum):
    """What a request does while no replica of the LLM is left."""

    WAIT = "wait"
    SLM_ONLY = "slm-only"
    FAIL = "fail"


Prompt = Annotated[str, typer.Argument(help="The question; `-` reads it from stdin.")]
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
Stop = Annotated[list[str] | None, typer.Option("--stop", help="Ends the answer before this text. May be repeated.")]
Temperature = Annotated[float, typer.Option("--temperature", min=0.0, help="0 is greedy.")]
TopK = Annotated[
    int, typer.Option("--top-k", min=0, max=2**32 - 1, help="Draws from the k likeliest tokens; 0 draws from all.")
]
TopP = Annotated[
    float,
    typer.Option("--top-p", min=0.0, max=1.0, help="Draws from the likeliest tokens of this total probability."),
]
Seed = Annotated[
    int | None,
    typer.Option(
        "--seed", min=0, max=2**64 - 1, help="Draws the same answer again. Without it each answer is another one."
    ),
]
LlmLoss = Annotated[
    LossPolicy,
    typer.Option(
        "--llm-loss-policy",
        help="While no replica of the LLM is left: wait for one; go on with the SLM, and say for how many tokens; or "
        "fail.",
    ),
]
Timeout = Annotated[
    float,
    typer.Option(
        "--timeout-s", min=0.1, max=MAX_SECONDS, help="Seconds that an answer may take, all of its tokens included."
    ),
]
Raw = Annotated[bool, typer.Option("--raw", help="Sends the prompt as it is, without the chat template.")]
Start = Annotated[bool, typer.Option("--start", help="Runs the reference pair for this answer if none runs.")]
System = Annotated[str | None, typer.Option("--system", help="A system message.")]


def asked(**fields: Any) -> Options:
    """What a request asks for beside its prompt; `fields` are those of `services.client.Options`.

    Raises:
        CliError: Naming options that exclude each other.
    """
    # What the client needs takes longer to import than the command line takes to be read.
    from services.client import Options

    try:
        return Options(**fields)
    except ValueError as error:
        message = str(error)
        for name in ("threshold", "target_llm_usage", "target_avg_params_b"):
            message = message.replace(name, f"--{name.replace('_', '-')}")
        raise CliError(message) from error
