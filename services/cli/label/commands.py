"""`trivium label`: turns queries into labelled routing data, here or on a cluster.

Owns the command line alone; what runs is imported when it runs.
"""

from __future__ import annotations

import typer
from typer.main import get_command

from services.cli import options as opt
from services.cli.label import options as own
from services.cli.label.options import LabelStage

_PLAN = "plan"
_REVERIFY = "reverify"
_HELP = {
    LabelStage.ALL: "All stages, in their order.",
    LabelStage.RESPONSES: "The LLM answers every query.",
    LabelStage.PREFILL: "The small model reads the answers; where would it write another token?",
    LabelStage.CONTINUE: "There the LLM writes on after that token, to the sentence's end.",
    LabelStage.VERIFY: "Does the sentence still say the same? Neutral, or divergent.",
    LabelStage.DATASET: "Features and labels of every token, in OUT/dataset.",
    _REVERIFY: "New verdicts by another --verifier over kept responses, and a dataset of them; old ones are removed.",
    _PLAN: "Checks a run against what is in OUT, and prints which shards are missing, as JSON.",
}
_PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True}
"""How typer has to read `submit`: options that it doesn't know go to the pods."""
_JOBS_OWN = ("shard_index", "shard_map")

label_app = typer.Typer(
    name="label",
    no_args_is_help=True,
    help="""Turns queries into the data that routers are trained on.

    Every stage writes Parquet shards. A shard that is there is never made again:
    after a crash, run the same command. `submit` makes Kubernetes Jobs of the stages.

    Example: trivium label all --source reference --limit 300 --out labels
    """,
)


def label(
    context: typer.Context,
    out: own.Out,
    pair: opt.PairName = "reference",
    source: own.Source = "reference",
    data: own.Data = "",
    split: own.Split = "",
    limit: own.Limit = None,
    shards: own.Shards = 16,
    shard_index: own.ShardIndex = None,
    shard_map: own.ShardMap = None,
    verifier: own.Verifier = "suite",
    engine: opt.EngineName = None,
    max_new_tokens: own.MaxResponseLen = None,
    max_continuation_len: own.MaxContinuationLen = None,
    keep_unfinished: own.KeepUnfinished = False,
    batch_size: own.BatchSize = None,
    kv_cache_tokens: own.KvCacheTokens = None,
    num_threads: own.NumThreads = None,
) -> None:
    """Runs the stage that the subcommand is named after."""
    from services.cli.label.label import run_label

    command = str(context.command.name)
    run_label(
        own.LabelOptions(
            stage=None if command == _PLAN else LabelStage.ALL if command == _REVERIFY else LabelStage(command),
            reverify=command == _REVERIFY,
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


@label_app.command(context_settings=_PASS_ON)
def submit(
    context: typer.Context,
    out: own.RemoteOut,
    stage: own.Stage = LabelStage.ALL,
    shards: own.JobShards = 16,
    parallelism: own.Parallelism = 4,
    gpus: own.Gpus = None,
    release: own.Release = "trivium",
    namespace: own.Namespace = None,
    kube_context: own.KubeContext = None,
    template: own.Template = None,
    queue: own.Queue = None,
    retries: own.Retries = 3,
    max_failed_shards: own.MaxFailedShards = None,
    keep_s: own.Keep = 86400,
    cancel_on_interrupt: own.CancelOnInterrupt = False,
) -> None:
    """Labels on a Kubernetes cluster: an Indexed Job a stage, one pod a shard.

    Any other option is the stages' own and goes to the pods, whose paths it
    means: see `trivium label all --help`.

    Only shards that are missing are made: after a failure or Ctrl-C, run the
    same command. A Job that goes on is watched, not submitted twice.

    Example: trivium label submit --shards 4 --gpus 1 --out train --limit 300
    """
    from services.cli.label.submit import run_submit

    verifier = _check_stage_options(context, ["--out", out, "--shards", str(shards)])
    run_submit(
        own.SubmitOptions(
            stage=stage,
            out=out,
            stage_options=tuple(context.args),
            verifier=verifier,
            num_shards=shards,
            parallelism=parallelism,
            gpus=gpus,
            release=release,
            namespace=namespace,
            kube_context=kube_context,
            template=template,
            queue=queue,
            retries=retries,
            max_failed_shards=max_failed_shards,
            keep_s=keep_s,
            cancel_on_interrupt=cancel_on_interrupt,
        )
    )


@label_app.command()
def collect(
    samples: own.Samples,
    out: own.CollectedOut,
    validation: own.CollectedValidation = None,
    validation_share: own.ValidationShare = 0.1,
    seed: own.CollectSeed = 1,
) -> None:
    """Makes training data of what orchestrators have kept of live traffic (--sample-dir).

    No verifier has looked at it: wherever the models differ counts as divergent.

    Example: trivium label collect /data/sample --out live --validation live-validation
    """
    from services.cli.label.collect import run_collect

    run_collect(own.CollectOptions(tuple(samples), out, validation, validation_share, seed))


def _check_stage_options(context: typer.Context, own_options: list[str]) -> str:
    """Reads the options that go to the pods as the stages there will; says who verifies."""
    command = get_command(label_app).commands[LabelStage.ALL.value]  # type: ignore[attr-defined]
    given = command.make_context(LabelStage.ALL.value, [*context.args, *own_options], parent=context.parent).params
    for name in _JOBS_OWN:
        if given[name] is not None:
            raise typer.BadParameter(f"--{name.replace('_', '-')} is the Jobs' own")
    return str(given["verifier"])


def add_commands(app: typer.Typer) -> None:
    """Adds this family's commands."""
    app.add_typer(label_app)


for _name, _help in _HELP.items():
    label_app.command(str(_name), help=_help)(label)
