"""Options of `trivium doctor` and `trivium smoke`."""

from __future__ import annotations

from typing import Annotated

import typer

from services.cli.options import MAX_COUNT, MAX_SECONDS

QUESTION = (
    "Ann starts with 24 stones. On Monday she buys 6 stones. On Tuesday she loses 2 stones. On Wednesday she wins 2 "
    "stones. On Thursday she drops 5 stones. On Friday she buys 3 stones. How many stones does Ann have now?"
)
"""Of the suite that the shipped pair was trained on, outside its training range: both models write some of it."""

Slm = Annotated[str | None, typer.Option("--slm", metavar="HOST:PORT", help="The slm service.")]
Router = Annotated[str | None, typer.Option("--router", metavar="HOST:PORT", help="The router service.")]
Llm = Annotated[str | None, typer.Option("--llm", metavar="HOST:PORT", help="The llm service.")]
Orchestrator = Annotated[
    str | None, typer.Option("--orchestrator", metavar="HOST:PORT", help="The same as --address.")
]
Gateway = Annotated[str | None, typer.Option("--gateway", metavar="[https://]HOST:PORT", help="The HTTP gateway.")]
Kube = Annotated[bool, typer.Option("--kube", help="Examines a Helm release on the cluster of KUBECONFIG instead.")]
Namespace = Annotated[
    str | None, typer.Option("--namespace", help="--kube: the release's; the context's without it.")
]
Release = Annotated[str, typer.Option("--release", help="--kube: the release's name.")]
KubeContext = Annotated[str | None, typer.Option("--context", help="--kube: a context of KUBECONFIG.")]
SmokePrompt = Annotated[str, typer.Option("--prompt", help="What is asked.")]
SmokeMaxNewTokens = Annotated[
    int, typer.Option("--max-new-tokens", min=2, max=MAX_COUNT, help="Tokens to write at most.")
]
ServingTimeout = Annotated[
    float, typer.Option("--timeout-s", min=0.0, max=MAX_SECONDS, help="Seconds to wait for the service to serve.")
]
