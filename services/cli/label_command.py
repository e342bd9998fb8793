"""`trivium label`: turns queries into labelled routing data.

Owns the subcommands and the options of those that run a stage; the work is `labeler_jobs.pipeline`'s.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

import typer

from services.cli import options as opt


class LabelStage(StrEnum):
    """What `trivium label` runs here."""

    ALL = "all"
    RESPONSES = "responses"
    PREFILL = "prefill"
    CONTINUE = "continue"
    VERIFY = "verify"
    DATASET = "dataset"


PLAN_COMMAND = "plan"

_HELP = {
    LabelStage.ALL: "All stages, in their order.",
    LabelStage.RESPONSES: "The LLM answers every query.",
    LabelStage.PREFILL: "The small model reads the answers; where would it write another token?",
    LabelStage.CONTINUE: "There the LLM writes on after that token, to the sentence's end.",
    LabelStage.VERIFY: "Does the sentence still say the same? Neutral, or divergent.",
    LabelStage.DATASET: "Features and labels of every token, in OUT/dataset.",
    PLAN_COMMAND: "Checks a run against what is in OUT, and prints which shards are missing, as JSON.",
}

label_app = typer.Typer(
    name="label",
    no_args_is_help=True,
    help="""Turns queries into the data that routers are trained on.

    Every stage writes Parquet shards. A shard that is there is never made again:
    after a crash, run the same command. `submit` makes Kubernetes Jobs of the stages.

    Example: trivium label all --source reference --limit 300 --out labels
    """,
)


@dataclass(frozen=True, slots=True)
class LabelOptions:
    """What the command line asks for; None leaves a setting to the pair file or to its default.

    Without a stage, the run is checked alone.
    """

    stage: LabelStage | None
    pair: str
    source: str
    data: str
    split: str
    out: str
    num_shards: int
    shard_index: int | None
    shard_map: str | None
    limit: int | None
    engine: str | None
    max_new_tokens: int | None
    max_continuation_len: int | None
    keep_unfinished: bool
    batch_size: int | None
    kv_cache_tokens: int | None
    num_threads: int | None
    verifier: str


def label(
    context: typer.Context,
    out: Annotated[
        str,
        typer.Option("--out", metavar="DIR|URL", help="Where shards go: a folder, s3://…, gs://…"),
    ],
    pair: opt.PairName = "reference",
    source: Annotated[
        str,
        typer.Option(
            "--source", help="Where queries come from: reference, aime, bespoke-stratos, openthoughts, limo, file"
        ),
    ] = "reference",
    data: Annotated[
        str,
        typer.Option("--data", metavar="PATH|DATASET", help="A file, folder or dataset in the shape of the source."),
    ] = "",
    split: Annotated[str, typer.Option("--split", help="Split of the source.", show_default="the source's own")] = "",
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Most queries.")] = None,
    shards: Annotated[int, typer.Option("--shards", min=1, help="Shards of every stage: a crash loses one.")] = 16,
    shard_index: Annotated[
        int | None,
        typer.Option(
            "--shard-index",
            min=0,
            help="Makes this shard alone.",
            show_default="JOB_COMPLETION_INDEX if set, else all",
        ),
    ] = None,
    shard_map: Annotated[
        str | None,
        typer.Option(
            "--shard-map",
            metavar="NUMBERS",
            help="Makes the shard at place JOB_COMPLETION_INDEX of these, e.g. 1,4-7.",
            show_default="every index stands for its own shard",
        ),
    ] = None,
    verifier: Annotated[
        str,
        typer.Option(
            "--verifier",
            metavar="suite|URL|model:NAME",
            help="Who tells neutral from divergent: `suite` knows the reference suite; a URL is an OpenAI-compatible "
            "endpoint, set up by TRIVIUM_VERIFIER_…; `model:` loads a model here.",
        ),
    ] = "suite",
    engine: opt.EngineName = None,
    max_new_tokens: Annotated[
        int | None, typer.Option("--max-new-tokens", min=1, help="Limit of a response.", show_default="32768")
    ] = None,
    max_continuation_len: Annotated[
        int | None, typer.Option("--max-continuation-len", min=1, help="Limit of a continuation.", show_default="256")
    ] = None,
    keep_unfinished: Annotated[
        bool, typer.Option("--keep-unfinished", help="Labels responses that hit the limit, too.")
    ] = False,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", min=1, help="Sequences that the LLM writes at a time.")
    ] = None,
    kv_cache_tokens: Annotated[
        int | None, typer.Option("--kv-cache-tokens", min=32, help="The LLM's KV budget, in tokens.")
    ] = None,
    num_threads: Annotated[
        int | None, typer.Option("--num-threads", min=0, help="CPU threads of a forward pass; 0 is torch's default.")
    ] = None,
) -> None:
    """Runs the stage that the subcommand is named after."""
    from services.cli.label import run_label

    command = str(context.command.name)

    run_label(
        LabelOptions(
            stage=None if command == PLAN_COMMAND else LabelStage(command),
            pair=pair,
            source=source,
            data=data,
            split=split,
            out=out,
            num_shards=shards,
            shard_index=shard_index,
            shard_map=shard_map,
            limit=limit,
            engine=engine and engine.value,
            max_new_tokens=max_new_tokens,
            max_continuation_len=max_continuation_len,
            keep_unfinished=keep_unfinished,
            batch_size=batch_size,
            kv_cache_tokens=kv_cache_tokens,
            num_threads=num_threads,
            verifier=verifier,
        )
    )


for _name, _help in _HELP.items():
    label_app.command(str(_name), help=_help)(label)
