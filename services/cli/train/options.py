"""Options of `trivium train` and `trivium calibrate`, and what their command lines ask for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import typer

from services.cli.errors import CliError
from services.cli.options import MAX_AT_A_TIME, MAX_COUNT, MAX_SEED

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


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """What `trivium train` is asked for."""

    data: Path
    validation: Path
    out: Path
    config: str
    pair: str
    seed: int
    target: CalibrationTarget
    device: str
    threads: int
    with_embedding: bool
    allow_other_slm: bool
    overwrite: bool


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """What `trivium import-router` is asked for."""

    source: str
    file: str | None
    slm: str
    out: Path
    with_embedding: bool | None
    allow_other_slm: bool
    overwrite: bool


@dataclass(frozen=True, slots=True)
class CalibrateOptions:
    """What `trivium calibrate` is asked for."""

    checkpoint: Path
    validation: Path
    target: CalibrationTarget
    pair: str
    decode_on: str | None
    num_queries: int
    threads: int


@dataclass(frozen=True, slots=True)
class CalibrateRuleOptions:
    """What `trivium calibrate --rule` is asked for."""

    rule: str
    pair: str
    source: str
    data: str
    split: str
    limit: int
    max_new_tokens: int
    validation: Path | None
    target_llm_usage: float | None
    out: Path | None


TargetLlmUsage = Annotated[
    float | None,
    typer.Option(
        "--target-llm-usage", min=0.0, max=1.0, metavar="SHARE", help="Tokens that the LLM writes / all tokens."
    ),
]
TargetRecall = Annotated[
    float | None,
    typer.Option(
        "--target-recall", min=0.0, max=1.0, metavar="SHARE", help="Divergent tokens that are routed / all of them."
    ),
]
TargetAvgParams = Annotated[
    float | None,
    typer.Option("--target-avg-params-b", min=0.0, metavar="BILLIONS", help="Parameters a token takes on average."),
]
Threads = Annotated[
    int, typer.Option("--threads", min=0, max=MAX_AT_A_TIME, help="CPU threads; 0 is torch's own choice.")
]

Data = Annotated[
    Path, typer.Option("--data", metavar="DIR", help="Dataset to learn from: OUT/dataset of `trivium label`.")
]
TrainValidation = Annotated[
    Path,
    typer.Option("--validation", metavar="DIR", help="Dataset of other queries: ends training, sets the threshold."),
]
Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder of the checkpoint.")]
Config = Annotated[
    str,
    typer.Option("--config", metavar="NAME|FILE", help="A recipe that ships with Trivium, or a YAML file."),
]
Seed = Annotated[int, typer.Option("--seed", min=0, max=MAX_SEED, help="Of weights, order and dropout.")]
Device = Annotated[
    str | None, typer.Option("--device", help="torch device.", show_default="cuda if there is one, else cpu")
]
WithEmbedding = Annotated[
    bool,
    typer.Option("--with-embedding", help="Stores the SLM's embedding; else the service reads it from the SLM."),
]
AllowOtherSlm = Annotated[
    bool,
    typer.Option("--allow-other-slm", help="Takes an SLM of other weights than the dataset's or the router's own."),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replaces a checkpoint that is there.")]

PublishedSource = Annotated[
    str,
    typer.Argument(metavar="FILE.pt|REPOSITORY", help="The published file; with --file, the repository that has it."),
]
PublishedName = Annotated[
    str | None,
    typer.Option(
        "--file", metavar="PATH", help="The file in REPOSITORY, `org/name` or `org/name@revision` of Hugging Face."
    ),
]
ImportSlm = Annotated[
    str,
    typer.Option(
        "--slm", metavar="MODEL", help="The small model that it is for: a folder, `org/name` or `org/name@revision`."
    ),
]
ImportWithEmbedding = Annotated[
    bool | None,
    typer.Option(
        "--with-embedding/--without-embedding",
        help="Stores the SLM's embedding; else the service reads it from the SLM's folder.",
        show_default="where --slm is no folder",
    ),
]

Checkpoint = Annotated[
    Path | None, typer.Argument(metavar="[CHECKPOINT]", help="Folder of a router's checkpoint; none with --rule.")
]
CalibrateValidation = Annotated[
    Path | None,
    typer.Option(
        "--validation",
        metavar="DIR",
        help="Labelled dataset of queries that the router hasn't learned from. A router needs one; "
        "a rule's sweep gets recall and precision from it.",
    ),
]
RuleName = Annotated[
    str | None,
    typer.Option(
        "--rule",
        metavar="entropy|margin|…",
        help="Makes the sweep of this rule instead, which needs no router and no labels.",
    ),
]
PromptSource = Annotated[
    str,
    typer.Option(
        "--source",
        help="--rule: where prompts come from: reference, aime, bespoke-stratos, openthoughts, limo, file.",
    ),
]
PromptData = Annotated[
    str,
    typer.Option("--data", metavar="PATH|DATASET", help="--rule: a file, folder or dataset in the source's shape."),
]
PromptSplit = Annotated[
    str, typer.Option("--split", help="--rule: split of the source.", show_default="the source's own")
]
NumPrompts = Annotated[int, typer.Option("--limit", min=1, max=MAX_COUNT, help="--rule: most prompts.")]
MaxAnswerLen = Annotated[
    int, typer.Option("--max-new-tokens", min=1, max=MAX_COUNT, help="--rule: limit of an answer, in tokens.")
]
SweepOut = Annotated[
    Path | None,
    typer.Option("--out", metavar="FILE", help="--rule: the sweep.", show_default="rules/RULE.json"),
]
DecodeOn = Annotated[
    str | None,
    typer.Option(
        "--decode-on",
        metavar="HOST:PORT",
        help="An orchestrator that serves this router: measures LLM usage while it answers validation queries, "
        "and meets targets by that.",
    ),
]
NumQueries = Annotated[
    int, typer.Option("--num-queries", min=1, max=MAX_COUNT, help="Queries that --decode-on asks at each threshold.")
]
