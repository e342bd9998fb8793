"""Options of the commands that ask an orchestrator for answers."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

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
Timeout = Annotated[
    float, typer.Option("--timeout-s", min=0.1, help="Seconds that an answer may take, all of its tokens included.")
]
Raw = Annotated[bool, typer.Option("--raw", help="Sends the prompt as it is, without the chat template.")]
Start = Annotated[bool, typer.Option("--start", help="Runs the reference pair for this answer if none runs.")]
System = Annotated[str | None, typer.Option("--system", help="A system message.")]
