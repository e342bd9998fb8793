"""`trivium label submit`: labels on a Kubernetes cluster.

Owns the options and what is shown; the work is `labeler_jobs.jobs`'.
"""

from __future__ import annotations

from typing import Annotated

import typer
from typer.main import get_command

from services.cli.label_command import LabelStage, label_app

PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True}
"""How typer has to read the command: options that it doesn't know go to the pods."""

_OWN_OPTIONS = ("shard_index", "shard_map")


def submit(
    context: typer.Context,
    out: Annotated[
        str,
        typer.Option(
            "--out",
            metavar="PATH|URL",
            help="Where shards go: a path on the release's volume of labels, s3://…, gs://…",
        ),
    ],
    stage: Annotated[LabelStage, typer.Option("--stage", help="One stage, or all, each after the other.")] = (
        LabelStage.ALL
    ),
    shards: Annotated[int, typer.Option("--shards", min=1, help="Shards of every stage, each made by a pod.")] = 16,
    parallelism: Annotated[int, typer.Option("--parallelism", min=1, help="Pods at a time.")] = 4,
    gpus: Annotated[
        int | None,
        typer.Option("--gpus", min=0, help="GPUs of a pod that runs a model.", show_default="labeler.gpus"),
    ] = None,
    release: Annotated[str, typer.Option("--release", help="The Helm release, with labeler.enabled.")] = "trivium",
    namespace: Annotated[
        str | None, typer.Option("--namespace", "-n", help="Where it is.", show_default="the context's")
    ] = None,
    kube_context: Annotated[
        str | None, typer.Option("--context", help="A context of KUBECONFIG.", show_default="the current one")
    ] = None,
    template: Annotated[
        str | None,
        typer.Option(
            "--template", help="The PodTemplate of a release with fullnameOverride.", show_default="by release"
        ),
    ] = None,
    queue: Annotated[
        str | None,
        typer.Option(
            "--queue",
            help="Kueue's LocalQueue that the Jobs wait in; empty for none.",
            show_default="labeler.queueName",
        ),
    ] = None,
    retries: Annotated[
        int, typer.Option("--retries", min=0, help="How often a shard may fail; evictions don't count.")
    ] = 3,
    max_failed_shards: Annotated[
        int | None,
        typer.Option(
            "--max-failed-shards",
            min=0,
            help="More failed shards end a Job at once.",
            show_default="a tenth, at least --parallelism",
        ),
    ] = None,
    keep_s: Annotated[int, typer.Option("--keep-s", min=0, help="Seconds that finished Jobs are kept.")] = 86400,
    cancel_on_interrupt: Annotated[
        bool, typer.Option("--cancel-on-interrupt", help="Ctrl-C ends the Job, too. Otherwise it goes on.")
    ] = False,
) -> None:
    """Labels on a Kubernetes cluster: an Indexed Job a stage, one pod a shard.

    Any other option is the stages' own and goes to the pods, whose paths it
    means: see `trivium label all --help`.

    Only shards that are missing are made: after a failure or Ctrl-C, run the
    same command. A Job that goes on is watched, not submitted twice.

    Example: trivium label submit --shards 4 --gpus 1 --out train --limit 300
    """
    from services.cli.submit import SubmitOptions, run_submit

    verifier = _check_stage_options(context, ["--out", out, "--shards", str(shards)])
    run_submit(
        SubmitOptions(
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


def _check_stage_options(context: typer.Context, own: list[str]) -> str:
    """Reads the options that go to the pods as the stages there will; says who verifies."""
    command = get_command(label_app).commands[LabelStage.ALL.value]  # type: ignore[attr-defined]
    given = command.make_context(LabelStage.ALL.value, [*context.args, *own], parent=context.parent).params
    for name in _OWN_OPTIONS:
        if given[name] is not None:
            raise typer.BadParameter(f"--{name.replace('_', '-')} is the Jobs' own")
    return str(given["verifier"])
