"""Options of `trivium label`, and what its command lines ask for."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from services.cli.options import MAX_AT_A_TIME, MAX_COUNT, MAX_SEED


class LabelStage(StrEnum):
    """What `trivium label` runs here."""

    ALL = "all"
    RESPONSES = "responses"
    PREFILL = "prefill"
    CONTINUE = "continue"
    VERIFY = "verify"
    DATASET = "dataset"


@dataclass(frozen=True, slots=True)
class LabelOptions:
    """What a stage is asked for; None leaves a setting to the pair file or to its default.

    Without a stage, the run is checked alone. `reverify` makes verdicts and dataset anew where they are of another
    verifier.
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
    reverify: bool = False


@dataclass(frozen=True, slots=True)
class CollectOptions:
    """What `trivium label collect` is asked for."""

    samples: tuple[Path, ...]
    out: Path
    validation: Path | None
    validation_share: float
    seed: int


@dataclass(frozen=True, slots=True)
class SubmitOptions:
    """What `trivium label submit` is asked for; None leaves a setting to the release."""

    stage: LabelStage
    out: str
    stage_options: tuple[str, ...]
    verifier: str
    num_shards: int
    parallelism: int
    gpus: int | None
    release: str
    namespace: str | None
    kube_context: str | None
    template: str | None
    queue: str | None
    retries: int
    max_failed_shards: int | None
    keep_s: int
    cancel_on_interrupt: bool


Shards = Annotated[
    int, typer.Option("--shards", min=1, max=MAX_AT_A_TIME, help="Shards of every stage: a crash loses one.")
]

# What runs a stage here.
Out = Annotated[str, typer.Option("--out", metavar="DIR|URL", help="Where shards go: a folder, s3://…, gs://…")]
Source = Annotated[
    str,
    typer.Option(
        "--source", help="Where queries come from: reference, aime, bespoke-stratos, openthoughts, limo, file"
    ),
]
Data = Annotated[
    str, typer.Option("--data", metavar="PATH|DATASET", help="A file, folder or dataset in the shape of the source.")
]
Split = Annotated[str, typer.Option("--split", help="Split of the source.", show_default="the source's own")]
Limit = Annotated[int | None, typer.Option("--limit", min=1, max=MAX_COUNT, help="Most queries.")]
ShardIndex = Annotated[
    int | None,
    typer.Option(
        "--shard-index",
        min=0,
        max=MAX_AT_A_TIME,
        help="Makes this shard alone.",
        show_default="JOB_COMPLETION_INDEX if set, else all",
    ),
]
ShardMap = Annotated[
    str | None,
    typer.Option(
        "--shard-map",
        metavar="NUMBERS",
        help="Makes the shard at place JOB_COMPLETION_INDEX of these, e.g. 1,4-7.",
        show_default="every index stands for its own shard",
    ),
]
Verifier = Annotated[
    str,
    typer.Option(
        "--verifier",
        metavar="suite|URL|model:NAME",
        help="Who tells neutral from divergent: `suite` knows the reference suite; a URL is an OpenAI-compatible "
        "endpoint, set up by TRIVIUM_VERIFIER_…; `model:` loads a model here.",
    ),
]
MaxResponseLen = Annotated[
    int | None,
    typer.Option("--max-new-tokens", min=1, max=MAX_COUNT, help="Limit of a response.", show_default="32768"),
]
MaxContinuationLen = Annotated[
    int | None,
    typer.Option("--max-continuation-len", min=1, max=MAX_COUNT, help="Limit of a continuation.", show_default="256"),
]
KeepUnfinished = Annotated[bool, typer.Option("--keep-unfinished", help="Labels responses that hit the limit, too.")]
BatchSize = Annotated[
    int | None,
    typer.Option("--batch-size", min=1, max=MAX_AT_A_TIME, help="Sequences that the LLM writes at a time."),
]
KvCacheTokens = Annotated[
    int | None, typer.Option("--kv-cache-tokens", min=32, max=MAX_COUNT, help="The LLM's KV budget, in tokens.")
]
NumThreads = Annotated[
    int | None,
    typer.Option(
        "--num-threads", min=0, max=MAX_AT_A_TIME, help="CPU threads of a forward pass; 0 is torch's default."
    ),
]

# What submits Jobs.
RemoteOut = Annotated[
    str,
    typer.Option(
        "--out",
        metavar="PATH|URL",
        help="Where shards go: a path on the release's volume of labels, s3://…, gs://…",
    ),
]
Stage = Annotated[LabelStage, typer.Option("--stage", help="One stage, or all, each after the other.")]
JobShards = Annotated[
    int, typer.Option("--shards", min=1, max=MAX_AT_A_TIME, help="Shards of every stage, each made by a pod.")
]
Parallelism = Annotated[int, typer.Option("--parallelism", min=1, max=MAX_AT_A_TIME, help="Pods at a time.")]
Gpus = Annotated[
    int | None,
    typer.Option(
        "--gpus", min=0, max=MAX_AT_A_TIME, help="GPUs of a pod that runs a model.", show_default="labeler.gpus"
    ),
]
Release = Annotated[str, typer.Option("--release", help="The Helm release, with labeler.enabled.")]
Namespace = Annotated[
    str | None, typer.Option("--namespace", "-n", help="Where it is.", show_default="the context's")
]
KubeContext = Annotated[
    str | None, typer.Option("--context", help="A context of KUBECONFIG.", show_default="the current one")
]
Template = Annotated[
    str | None,
    typer.Option("--template", help="The PodTemplate of a release with fullnameOverride.", show_default="by release"),
]
Queue = Annotated[
    str | None,
    typer.Option(
        "--queue",
        help="Kueue's LocalQueue that the Jobs wait in; empty for none.",
        show_default="labeler.queueName",
    ),
]
Retries = Annotated[
    int, typer.Option("--retries", min=0, max=MAX_COUNT, help="How often a shard may fail; evictions don't count.")
]
MaxFailedShards = Annotated[
    int | None,
    typer.Option(
        "--max-failed-shards",
        min=0,
        max=MAX_COUNT,
        help="More failed shards end a Job at once.",
        show_default="a tenth, at least --parallelism",
    ),
]
Keep = Annotated[int, typer.Option("--keep-s", min=0, max=MAX_COUNT, help="Seconds that finished Jobs are kept.")]
CancelOnInterrupt = Annotated[
    bool, typer.Option("--cancel-on-interrupt", help="Ctrl-C ends the Job, too. Otherwise it goes on.")
]

Samples = Annotated[
    list[Path],
    typer.Argument(metavar="DIR...", help="Directories of orchestrators' --sample-dir.", show_default=False),
]
CollectedOut = Annotated[Path, typer.Option("--out", metavar="DIR", help="The dataset's folder.")]
CollectedValidation = Annotated[
    Path | None,
    typer.Option("--validation", metavar="DIR", help="Folder of a dataset of other answers.", show_default="none"),
]
ValidationShare = Annotated[
    float, typer.Option("--validation-share", min=0.0, max=1.0, help="Share of the answers that go there.")
]
CollectSeed = Annotated[int, typer.Option("--seed", min=0, max=MAX_SEED, help="Chooses them.")]
