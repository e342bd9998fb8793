"""Labelling, stage by stage and shard by shard.

Owns what is to be done and what is done already. A shard that is there is never made again, so a run that was killed
goes on where it stopped, and runs of different shards may share an output folder.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import pyarrow as pa

from labeler_jobs.cost import COST_FILE, ShardCost, costs_to_json, read_costs, write_cost
from labeler_jobs.jobs.survey import Survey
from labeler_jobs.models.identity import identify_pair
from labeler_jobs.plan import LabelPlan, LabelSettings, QuerySource, digest_queries, settle_plan
from labeler_jobs.queries.loading import Query
from labeler_jobs.shards.store import ShardError, ShardName, ShardStore
from labeler_jobs.stages.dataset import JoinError, labelled_schema
from labeler_jobs.stages.prefill import FeatureError
from labeler_jobs.stages.registry import STAGES, Bench, MakeShard, Stage
from labeler_jobs.stages.schemas import QUERIES, RESPONSES, VERDICTS
from labeler_jobs.statistics import STATISTICS_FILE, LabelStatistics, count_labels
from labeler_jobs.verifiers.verifier import Verifier, VerifierUnreachable
from services.common.pair import Pair

STAGE_NAMES = tuple(stage.name for stage in STAGES)


class LabelError(Exception):
    """A shard could not be made. The message names it and says how to go on."""


class Watcher(Protocol):
    """Is told how labelling goes on."""

    def start_stage(self, name: str, counts: str, num_shards: int, num_done: int) -> None:
        """A stage begins, `num_done` of whose shards are there already. `counts` says what its items are."""

    def add_items(self, num_items: int) -> None:
        """Items of the stage were made."""

    def end_shard(self) -> None:
        """A shard is whole."""


@dataclass(frozen=True)
class LabelJob:
    """What is to be labelled, and with what.

    Attributes:
        pair: The models.
        source: Where the queries come from.
        num_shards: Shards of every stage.
        settings: How they are labelled.
        load_queries: Loads the source.
        open_verifier: Opens the verifier that the settings name.
    """

    pair: Pair
    source: QuerySource
    num_shards: int
    settings: LabelSettings
    load_queries: Callable[[], Iterable[Query]]
    open_verifier: Callable[[], AbstractContextManager[Verifier]]


@dataclass(frozen=True)
class Outcome:
    """What the output folder holds once its last shard is there.

    Attributes:
        statistics: Counts of the dataset.
        costs: Notes of all shards, by stage.
    """

    statistics: LabelStatistics
    costs: dict[str, list[ShardCost]]


class Labeling:
    """A labelling run in an output folder.

    Args:
        job: What to do.
        url: The output folder, or any URL that fsspec knows.
        replace_verdicts: Take away verdicts of another verifier than the job's, and the dataset that was made of
            them.

    Attributes:
        plan: The folder's plan.
        bench: What stages work with.

    Raises:
        PlanError: The folder belongs to another run.
        IdentityError: The pair can't be labelled with.
        ShardError: The plan can't be read or written.
    """

    def __init__(self, job: LabelJob, url: str, *, replace_verdicts: bool = False) -> None:
        self._store = ShardStore(url)
        self._queries = list(job.load_queries())
        models = identify_pair(job.pair)
        plan = LabelPlan(
            slm=models.slm,
            llm=models.llm,
            context_len=models.context_len,
            source=job.source,
            num_queries=len(self._queries),
            queries_sha256=digest_queries(self._queries),
            num_shards=job.num_shards,
            settings=job.settings,
        )
        self.plan = settle_plan(
            self._store, plan, partial(self._clear_verdicts if replace_verdicts else self._has_no_verdicts, plan)
        )
        self.bench = Bench(self._store, self.plan, job.pair, job.open_verifier)

    def run(self, stage_names: Sequence[str], shard_indices: Sequence[int], watcher: Watcher) -> None:
        """Makes the shards that are missing.

        Args:
            stage_names: Stages to run, in order.
            shard_indices: Which shards of each.
            watcher: Is told how it goes on.

        Raises:
            LabelError: A shard could not be made, or one that it needs is missing; finished shards are kept.
            ModelLoadError: A model can't be used; that of a later stage is tried before the first.
        """
        stages = [stage for stage in STAGES if stage.name in stage_names]
        unfinished = [stage for stage in stages if self.is_missing(stage.name, shard_indices)]
        for stage in unfinished[1:]:
            stage.try_first(self.bench)
        self.write_queries(shard_indices)
        for stage in stages:
            shards = [ShardName(stage.folder, index, self.plan.num_shards) for index in shard_indices]
            missing = self._missing(shards)
            watcher.start_stage(stage.name, stage.counts, len(shards), len(shards) - len(missing))
            self._check_needs(stage, missing)
            if missing:
                self._run_stage(stage, missing, watcher)

    def is_missing(self, stage_name: str, shard_indices: Sequence[int]) -> bool:
        """Whether a stage has shards to make."""
        [stage] = [stage for stage in STAGES if stage.name == stage_name]
        return bool(self._missing([ShardName(stage.folder, index, self.plan.num_shards) for index in shard_indices]))

    def _has_no_verdicts(self, plan: LabelPlan) -> bool:
        return not any(
            self._store.exists(ShardName("verdicts", index, plan.num_shards).path) for index in range(plan.num_shards)
        )

    def _clear_verdicts(self, plan: LabelPlan) -> bool:
        # The dataset first: one that is there is always of the verdicts that are there.
        shards = [
            ShardName(folder, index, plan.num_shards)
            for folder in ("dataset", "verdicts")
            for index in range(plan.num_shards)
        ]
        self._store.delete(STATISTICS_FILE, COST_FILE)
        for shard in shards:
            self._store.delete(shard.path, shard.cost_path)
        return True

    def survey(self) -> Survey:
        """Tells which shards are still to be made."""
        names = {stage.folder: stage.name for stage in STAGES}
        return Survey(
            missing={
                stage.name: [shard.index for shard in self._missing(self._shards(stage.folder))] for stage in STAGES
            },
            # Queries come from the source whenever they are missing.
            needs={stage.name: [names[folder] for folder in stage.needs if folder in names] for stage in STAGES},
        )

    def outcome(self) -> Outcome | None:
        """Counts the dataset and sums its cost, and writes both down; None while shards are missing."""
        if not all(self._store.exists(shard.path) for shard in self._shards("dataset")):
            return None
        costs = {stage.folder: read_costs(self._store, self._shards(stage.folder)) for stage in STAGES}
        dataset = labelled_schema(self.plan.slm, self.plan.llm, self.plan.settings.num_top_logits)
        statistics = count_labels(
            self._columns("responses", RESPONSES, ["query_id", "domain", "response_token_ids", "finished"]),
            self._columns("verdicts", VERDICTS, ["query_id", "unparsable"]),
            self._columns("dataset", dataset, ["query_id", "domain", "label"]),
        )
        self._store.write_text(STATISTICS_FILE, statistics.to_json())
        self._store.write_text(COST_FILE, costs_to_json(costs))
        return Outcome(statistics, costs)

    def _missing(self, shards: Sequence[ShardName]) -> list[ShardName]:
        return [shard for shard in shards if not self._store.exists(shard.path)]

    def _shards(self, folder: str) -> list[ShardName]:
        return [ShardName(folder, index, self.plan.num_shards) for index in range(self.plan.num_shards)]

    def _columns(self, folder: str, schema: pa.Schema, columns: list[str]) -> Iterable[pa.RecordBatch]:
        for shard in self._shards(folder):
            yield from self._store.batches(shard.path, schema, columns)

    def write_queries(self, shard_indices: Sequence[int]) -> None:
        """Writes the queries of these shards, where they are missing.

        Raises:
            ShardError: They can't be written.
        """
        for index in shard_indices:
            shard = ShardName("queries", index, self.plan.num_shards)
            if self._store.exists(shard.path):
                continue
            queries = [self._queries[number] for number in self.plan.query_range(index)]
            columns = {name: [getattr(query, name) for query in queries] for name in QUERIES.names}
            self._store.write(shard.path, QUERIES, [pa.RecordBatch.from_pydict(columns, schema=QUERIES)])

    def _check_needs(self, stage: Stage, shards: Sequence[ShardName]) -> None:
        for shard in shards:
            for folder in stage.needs:
                needed = shard.of(folder).path
                if not self._store.exists(needed):
                    before = next((other.name for other in STAGES if other.folder == folder), folder)
                    raise LabelError(f"{self._store.locate(needed)}: no such shard; run the stage {before!r} first")

    def _run_stage(self, stage: Stage, shards: Sequence[ShardName], watcher: Watcher) -> None:
        with stage.open(self.bench) as make:
            for shard in shards:
                try:
                    batches = self._with_cost(stage, shard, make, watcher)
                    self._store.write(shard.path, stage.schema(self.plan), batches)
                except (ShardError, FeatureError, JoinError, VerifierUnreachable) as error:
                    raise LabelError(
                        f"{stage.name}: shard {shard.index} of {shard.num_shards}: {error}\n"
                        "Finished shards are kept; run the same command again to go on."
                    ) from error
                watcher.end_shard()

    def _with_cost(
        self, stage: Stage, shard: ShardName, make: MakeShard, watcher: Watcher
    ) -> Iterator[pa.RecordBatch]:
        """The batches of a shard; after the last one, and so before the shard is there, its cost is noted."""
        started, num_items = time.perf_counter(), 0

        def count(num_new: int) -> None:
            nonlocal num_items
            num_items += num_new
            watcher.add_items(num_new)

        yield from make(shard, count)
        section = stage.device(self.bench.pair)
        cost = ShardCost(
            seconds=time.perf_counter() - started,
            num_items=num_items,
            device="" if section is None else section.engine.device or "cpu",
            num_devices=0 if section is None else section.engine.tp_size or 1,
        )
        write_cost(self._store, shard, cost)
