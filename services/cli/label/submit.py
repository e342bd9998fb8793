"""What `trivium label submit` does: finds the release, submits its Jobs, and says what became of them.

Owns what an interruption does, and which stages need GPUs.
"""

from __future__ import annotations

import logging

import typer

from labeler_jobs.jobs.cluster import Cluster
from labeler_jobs.jobs.connection import ClusterError, connect
from labeler_jobs.jobs.manifest import JobOptions, ManifestError, is_plan, queue_of, resolve_out
from labeler_jobs.jobs.progress import JobProgress
from labeler_jobs.jobs.rights import ALWAYS
from labeler_jobs.jobs.submission import Submission, SubmissionError
from labeler_jobs.verifiers.names import LOCAL, VerifierChoiceError, check_name
from services.cli.console import err, note
from services.cli.errors import CliError
from services.cli.label.options import LabelStage, SubmitOptions

_CHART = "trivium"
_NAME_LEN = 40
_MODEL_STAGES = (LabelStage.RESPONSES, LabelStage.PREFILL, LabelStage.CONTINUE)
_INTERRUPTED = 130


def run_submit(options: SubmitOptions) -> None:
    """Submits the stages that are asked for, one Job after the other, and watches them.

    Raises:
        CliError: The cluster refuses, or a Job fails; the message says what to do.
    """
    # Connections that are tried again are the watch's business, and no news.
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    try:
        check_name(options.verifier)
        api, namespace = connect(options.kube_context)
        cluster = Cluster(api, options.namespace or namespace, options.template or template_name(options.release))
        _submit(cluster, options)
    except (ClusterError, ManifestError, SubmissionError, VerifierChoiceError) as error:
        raise CliError(str(error)) from error


def template_name(release: str) -> str:
    """Name of a release's PodTemplate, as the chart makes it of the release's."""
    fullname = release if _CHART in release else f"{release}-{_CHART}"
    return f"{fullname[:_NAME_LEN].removesuffix('-')}-labeler"


def _submit(cluster: Cluster, options: SubmitOptions) -> None:
    cluster.check_rights(ALWAYS)
    template = cluster.template()
    job_options = JobOptions(
        out=resolve_out(template, options.out),
        arguments=options.stage_options,
        num_shards=options.num_shards,
        parallelism=options.parallelism,
        gpus=options.gpus,
        retries=options.retries,
        max_failed_shards=options.max_failed_shards,
        keep_s=options.keep_s,
        queue=options.queue,
    )
    if queue := queue_of(template, job_options):
        cluster.check_queue(queue)
    all_stages = [stage for stage in LabelStage if stage is not LabelStage.ALL]
    stages = all_stages if options.stage is LabelStage.ALL else [options.stage]
    model_stages = [*_MODEL_STAGES]
    if options.verifier.startswith(LOCAL):
        model_stages.append(LabelStage.VERIFY)
    with JobProgress(err) as progress:
        submission = Submission(cluster, template, job_options, progress)
        try:
            submission.run(stages, model_stages)
        except KeyboardInterrupt:
            _leave(cluster, submission, options.cancel_on_interrupt, progress)
            raise typer.Exit(_INTERRUPTED) from None
    if stages[-1] is LabelStage.DATASET:
        note(f"labels and their statistics are complete: {job_options.out} (dataset, statistics.json, cost.json)")


def _leave(cluster: Cluster, submission: Submission, cancel: bool, progress: JobProgress) -> None:
    for job in submission.unfinished():
        name = job["metadata"]["name"]
        if cancel or is_plan(job):
            cluster.delete_job(job)
            progress.say(f"the Job {name} is cancelled; finished shards are kept")
        else:
            progress.say(
                f"the Job {name} goes on. The same command watches it again, and submits the stages after it; "
                f"kubectl -n {cluster.namespace} delete job {name} ends it"
            )
