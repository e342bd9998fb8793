"""Labelling as a chain of Jobs: finds out what is missing, submits a Job a stage, watches it to its end.

Owns the order of things and when to give up. It keeps no state: whatever happened before, the Jobs on the cluster and
the shards in the output folder tell how to go on.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from typing import Protocol

from kubernetes.client.exceptions import ApiException

from labeler_jobs.jobs.cluster import Cluster
from labeler_jobs.jobs.connection import ClusterBusy, ClusterError
from labeler_jobs.jobs.manifest import (
    ARGUMENTS_ANNOTATION,
    PLAN_STAGE,
    QUEUE_LABEL,
    SHARDS_ANNOTATION,
    STAGE_LABEL,
    JobOptions,
    Manifest,
    is_plan,
    job_arguments,
    plan_job,
    run_of,
    stage_job,
)
from labeler_jobs.jobs.rights import Right
from labeler_jobs.jobs.situation import Object, Situation, last_failures, read_situation, why_ended
from labeler_jobs.jobs.survey import Survey, SurveyError, read_survey
from labeler_jobs.shards.numbers import format_numbers, parse_numbers

logger = logging.getLogger(__name__)

_TICK_S = 1.0
_ASK_EVERY_S = 3.0
# Kubelets retry what stops a container from being made; a registry that hiccups gets this long.
_STUCK_S = 30.0
_AWAY_S = 10.0
_BUSY_S, _TRY_EVERY_S = 120.0, 3.0
_LOG_LINES = 40
_MOST_LOGS = 5


class SubmissionError(Exception):
    """A Job failed, or can't be submitted. The message says how to go on."""


class View(Protocol):
    """Is told how Jobs go on."""

    def start(self, stage: str, num_shards: int, num_done: int) -> None:
        """A stage begins; `num_done` of its shards were there before."""

    def update(self, num_done: int, num_running: int, num_failed: int) -> None:
        """How the stage stands, shards that were there before included."""

    def say(self, message: str) -> None:
        """Something to know, once."""

    def show_log(self, title: str, log: str) -> None:
        """What a failed pod wrote."""


class Submission:
    """The Jobs of one labelling run.

    Args:
        cluster: Where they run.
        template: What their pods are made from.
        options: The run's.
        view: Is told how it goes on.
    """

    def __init__(self, cluster: Cluster, template: Manifest, options: JobOptions, view: View) -> None:
        self._cluster = cluster
        self._template = template
        self._options = options
        self._view = view
        self._run = run_of(template, options.out)

    def unfinished(self) -> list[Object]:
        """Jobs of the run that go on, whoever submitted them."""
        return self._cluster.unfinished_jobs(self._run)

    def run(self, stages: Sequence[str], model_stages: Collection[str]) -> None:
        """Makes what is missing of some stages, each once the one before it is complete.

        Args:
            stages: Their names, in order.
            model_stages: Those whose pods get GPUs.

        Raises:
            SubmissionError: A stage failed, or the output folder belongs to another run.
            ClusterError: The cluster can't be asked, or refuses.
        """
        self._finish_running()
        survey = self._survey()
        lacking = survey.lacking(stages)
        if lacking is not None:
            stage, needed, shards = lacking
            raise SubmissionError(
                f"{stage}: the stage {needed!r} comes first: its shards {format_numbers(shards)} are missing"
            )
        for stage in stages:
            shards = list(survey.missing[stage])
            num_done = self._options.num_shards - len(shards)
            self._view.start(stage, self._options.num_shards, num_done)
            if shards:
                manifest = stage_job(self._template, self._options, stage, shards, stage in model_stages)
                self._make_shards(self._create(manifest), shards)

    def _finish_running(self) -> None:
        """Watches a Job of this run that goes on already, as after a lost terminal."""
        for job in self.unfinished():
            if is_plan(job):
                continue
            name, stage = job["metadata"]["name"], job["metadata"]["labels"][STAGE_LABEL]
            annotations = job["metadata"]["annotations"]
            if json.loads(annotations[ARGUMENTS_ANNOTATION]) != job_arguments(self._options):
                theirs = " ".join(json.loads(annotations[ARGUMENTS_ANNOTATION]))
                raise SubmissionError(
                    f"the Job {name} writes to the same folder with other options ({theirs}): wait for it, or end it "
                    f"with kubectl -n {self._cluster.namespace} delete job {name}"
                )
            shards = parse_numbers(annotations[SHARDS_ANNOTATION])
            self._view.start(stage, self._options.num_shards, self._options.num_shards - len(shards))
            self._view.say(f"the Job {name} goes on already")
            self._make_shards(job, shards)

    def _survey(self) -> Survey:
        self._view.start(PLAN_STAGE, 1, 0)
        job = self._create(plan_job(self._template, self._options))
        try:
            end = self._watch(job, num_before=0, may_be_stuck=False)
            pods = self._cluster.pods(job)
            log = self._plan_log(pods)
            if end.outcome == "Complete":
                return read_survey(log)
        except SurveyError as error:
            raise SubmissionError(f"{job['metadata']['name']}: {error}; its log:\n{log}") from error
        finally:
            # Its answer holds for this moment, and so do its complaints.
            self._cluster.delete_job(job)
        complaints = [line.removeprefix("error: ") for line in log.splitlines() if line.startswith("error: ")]
        raise SubmissionError("\n".join(complaints) or f"{end.message}\n{log}".strip())

    def _create(self, manifest: Manifest) -> Object:
        """Submits a Job; a chain that ran for hours doesn't break because the server is busy for a minute."""
        until = time.monotonic() + _BUSY_S
        told = False
        while True:
            try:
                return self._cluster.create_job(manifest)
            except ClusterBusy as error:
                if time.monotonic() > until:
                    raise
                if not told:
                    self._view.say(f"{error}; tries again")
                told = True
                time.sleep(_TRY_EVERY_S)

    def _plan_log(self, pods: Sequence[Object]) -> str:
        ended = [pod for pod in pods if pod["status"].get("phase") in ("Succeeded", "Failed")]
        if not ended:
            return ""
        newest = max(ended, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))
        return self._cluster.log(newest["metadata"]["name"], _LOG_LINES) or why_ended(newest)

    def _make_shards(self, job: Object, shards: Sequence[int]) -> None:
        num_before = self._options.num_shards - len(shards)
        end = self._watch(job, num_before, may_be_stuck=True)
        if end.outcome == "Complete":
            return
        failed = [shards[index] for index in end.failed]
        self._show_failures(job, shards, end.failed)
        name, stage = job["metadata"]["name"], job["metadata"]["labels"][STAGE_LABEL]
        which = f"the shards {format_numbers(failed)} failed" if failed else "failed"
        raise SubmissionError(
            f"{stage}: {which}: {end.message} (Job {name})\n"
            "Finished shards are kept; run the same command again to go on."
        )

    def _show_failures(self, job: Object, shards: Sequence[int], indexes: Sequence[int]) -> None:
        failures = last_failures(self._cluster.pods(job), indexes)
        for index in list(indexes)[:_MOST_LOGS]:
            pod = failures.get(index)
            if pod is None:
                self._view.say(f"shard {shards[index]}: its pod is gone, and the log with it")
                continue
            name = pod["metadata"]["name"]
            title = f"shard {shards[index]}, pod {name}: {why_ended(pod)}"
            try:
                self._view.show_log(title, self._cluster.log(name, _LOG_LINES))
            except ClusterError as error:
                self._view.say(f"{title}; its log can't be read: {error}")
        if len(indexes) > _MOST_LOGS:
            self._view.say(f"{len(indexes) - _MOST_LOGS} more failed; kubectl logs tells why while the Job is kept")

    def _watch(self, job: Object, num_before: int, may_be_stuck: bool) -> Situation:
        """Watches a Job to its end."""
        told = _Explanations(self._cluster, self._view, job)
        changed = threading.Event()
        with self._cluster.following(job, changed) as (jobs, pods):
            while True:
                changed.wait(_TICK_S)
                changed.clear()
                told.mind_silence(max(jobs.away_s, pods.away_s))
                try:
                    found, alive = jobs.objects, pods.objects
                except ApiException as error:
                    raise self._cluster.refusal(Right("batch", "jobs", "watch"), error) from error
                if found is None or alive is None:
                    continue
                if not found:
                    raise SubmissionError(f"the Job {job['metadata']['name']} was deleted before its end")
                situation = read_situation(found[0], alive, datetime.now(UTC))
                self._view.update(num_before + len(situation.done), situation.num_running, len(situation.failed))
                if situation.outcome:
                    return situation
                told.explain(situation)
                if not may_be_stuck and told.stuck_s > _STUCK_S:
                    raise SubmissionError(
                        f"no pod can start: {'; '.join(situation.waiting)}\n"
                        "The image is the release's: images.registry, images.tag and images.pullSecrets say where it "
                        "is pulled from."
                    )


class _Explanations:
    """Says why a Job waits: each reason once, until the Job moves on."""

    def __init__(self, cluster: Cluster, view: View, job: Object) -> None:
        self._cluster = cluster
        self._view = view
        self._job = job
        self._said: set[str] = set()
        self._asked_at = time.monotonic()
        self._stuck_since: float | None = None
        self._was_away = False

    @property
    def stuck_s(self) -> float:
        """Seconds since a container couldn't be made, 0 while they can."""
        return 0.0 if self._stuck_since is None else time.monotonic() - self._stuck_since

    def mind_silence(self, away_s: float) -> None:
        if away_s > _AWAY_S and not self._was_away:
            self._view.say("the API server doesn't answer; the Job goes on without it, and this waits")
        elif self._was_away and not away_s:
            self._view.say("the API server answers again")
        self._was_away = away_s > _AWAY_S or (self._was_away and away_s > 0)

    def explain(self, situation: Situation) -> None:
        if not situation.is_stuck:
            self._stuck_since = None
        elif self._stuck_since is None:
            self._stuck_since = time.monotonic()
        reasons = list(situation.waiting)
        if situation.is_suspended:
            reasons.append("the Job is suspended")
        if time.monotonic() - self._asked_at > _ASK_EVERY_S:
            self._asked_at = time.monotonic()
            reasons += self._ask(situation)
        for reason in reasons:
            if reason not in self._said:
                self._said.add(reason)
                self._view.say(reason)
        if not (situation.waiting or situation.unexplained or situation.is_suspended):
            self._said.clear()

    def _ask(self, situation: Situation) -> list[str]:
        """What only other objects tell: Kueue's workload, and events."""
        queue = self._job["metadata"]["labels"].get(QUEUE_LABEL)
        try:
            if situation.is_suspended and queue:
                message = self._cluster.queue_message(self._job)
                return [f"waits for its queue {queue}" + (f": {message}" if message else "")]
            return list(filter(None, map(self._cluster.last_warning, situation.unexplained)))
        except ClusterError as error:
            # The Job goes on without an explanation; whether the server is there is the watch's to tell.
            logger.debug("no explanation: %s", error)
            return []
