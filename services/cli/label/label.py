"""What `trivium label` does: makes a job of its options, runs it and prints what came out.

Owns which defaults an option falls back to, and the queries and the verifier of the reference suite.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext

from evaluation.reference.corpus.queries import REFERENCE_SOURCE, read_reference
from evaluation.reference.corpus.verifier import SuiteVerifier
from labeler_jobs.cost import cost_table
from labeler_jobs.models.identity import IdentityError
from labeler_jobs.pipeline import STAGE_NAMES, LabelError, Labeling, LabelJob
from labeler_jobs.plan import LabelSettings, PlanError, QuerySource
from labeler_jobs.progress import LabelProgress
from labeler_jobs.queries.loading import Query, load_queries
from labeler_jobs.queries.rows import QueryError
from labeler_jobs.settings import JobSettings
from labeler_jobs.shards.numbers import parse_numbers
from labeler_jobs.shards.store import ShardError
from labeler_jobs.stages.registry import llm_options
from labeler_jobs.verifiers.choice import check_llm_verifier, open_llm_verifier, reach_llm_verifier
from labeler_jobs.verifiers.names import SUITE, VerifierChoiceError
from labeler_jobs.verifiers.verifier import Verifier, VerifierUnreachable
from services.cli.console import err, note, out
from services.cli.errors import CliError
from services.cli.label.options import LabelOptions, LabelStage
from services.cli.pairs import find_pair
from services.common.pair import Pair, PairError, load_pair
from services.engines.base import ModelLoadError
from services.engines.factory import EngineUnavailable


def run_label(options: LabelOptions) -> None:
    """Runs the stages that are asked for, and prints statistics and cost once the dataset is complete.

    Without a stage it prints which shards are missing.

    Raises:
        CliError: Something can't be used or made; the message names it.
    """
    try:
        pair = load_pair(find_pair(options.pair))
        job, shard_indices = _make_job(options, pair), _shard_indices(options)
        if options.reverify:
            # Before old verdicts are given up.
            _reach_verifier(options)
        labeling = Labeling(job, options.out, replace_verdicts=options.reverify)
        stages = _stages(options)
        if LabelStage.VERIFY in stages and labeling.is_missing(LabelStage.VERIFY, shard_indices):
            # Before anything is made for it.
            _reach_verifier(options)
        if options.stage is None:
            out.print(labeling.survey().to_json(), soft_wrap=True, markup=False)
            return
        with LabelProgress(err) as progress:
            labeling.run(stages, shard_indices, progress)
        outcome = labeling.outcome()
    except (
        PairError, QueryError, PlanError, IdentityError, ShardError, LabelError, ModelLoadError, EngineUnavailable,
        VerifierChoiceError, VerifierUnreachable,
    ) as error:  # fmt: skip
        raise CliError(str(error)) from error
    if outcome is None:
        note(f"{options.out}: shards of the dataset are still missing")
        return
    out.print(outcome.statistics.table())
    out.print(cost_table(outcome.costs))


def _make_job(options: LabelOptions, pair: Pair) -> LabelJob:
    if options.verifier == SUITE and options.source != REFERENCE_SOURCE:
        raise CliError(
            f"--verifier: {SUITE!r} reads the sentences of the reference suite alone; for the source "
            f"{options.source!r} give a URL or model:…"
        )
    source = QuerySource(options.source, options.data, options.split, options.limit)
    settings = _settings(options, pair)
    return LabelJob(
        pair=pair,
        source=source,
        num_shards=options.num_shards,
        settings=settings,
        load_queries=lambda: _load(source),
        open_verifier=lambda: _open_verifier(pair, settings),
    )


def _stages(options: LabelOptions) -> Sequence[str]:
    """What is made; without a stage, what a run would make."""
    if options.reverify:
        return LabelStage.VERIFY, LabelStage.DATASET
    return STAGE_NAMES if options.stage in (None, LabelStage.ALL) else (options.stage,)


def _reach_verifier(options: LabelOptions) -> None:
    if options.verifier != SUITE:
        reach_llm_verifier(options.verifier)


def _load(source: QuerySource) -> Iterable[Query]:
    readers = {REFERENCE_SOURCE: read_reference}
    return load_queries(source.name, source.path, source.split, source.limit, readers=readers)


def _open_verifier(pair: Pair, settings: LabelSettings) -> AbstractContextManager[Verifier]:
    if settings.verifier == SUITE:
        return nullcontext(SuiteVerifier())
    return open_llm_verifier(settings.verifier, settings.engine, llm_options(pair.llm, settings))


def _settings(options: LabelOptions, pair: Pair) -> LabelSettings:
    """The command line's, else the pair file's, else the defaults."""
    engine, default = pair.llm.engine, LabelSettings()
    num_threads = engine.num_threads if options.num_threads is None else options.num_threads
    return LabelSettings(
        max_new_tokens=options.max_new_tokens or default.max_new_tokens,
        max_continuation_len=options.max_continuation_len or default.max_continuation_len,
        keep_unfinished=options.keep_unfinished,
        verifier=options.verifier,
        verifier_model="" if options.verifier == SUITE else check_llm_verifier(options.verifier),
        engine=options.engine or engine.name or default.engine,
        max_batch_size=options.batch_size or engine.max_batch_size or default.max_batch_size,
        kv_cache_tokens=options.kv_cache_tokens or engine.kv_cache_tokens or default.kv_cache_tokens,
        prefill_chunk_len=engine.prefill_chunk_len or default.prefill_chunk_len,
        num_threads=default.num_threads if num_threads is None else num_threads,
    )


def _shard_indices(options: LabelOptions) -> list[int]:
    index = options.shard_index
    if index is None:
        index = JobSettings().job_completion_index
    elif options.shard_map is not None:
        raise CliError("--shard-map: give either this or --shard-index")
    if options.shard_map is not None:
        index = _mapped(options.shard_map, index)
    if index is None:
        return list(range(options.num_shards))
    if options.reverify:
        raise CliError("reverify takes away the verdicts of all shards: run it without a shard's number")
    if index >= options.num_shards:
        raise CliError(f"--shard-index: {index} is not below --shards {options.num_shards}")
    return [index]


def _mapped(shard_map: str, place: int | None) -> int:
    try:
        shards = parse_numbers(shard_map)
    except ValueError as error:
        raise CliError(f"--shard-map: {error}") from error
    if place is None:
        raise CliError("--shard-map: JOB_COMPLETION_INDEX isn't set; it is in the pods of an Indexed Job")
    if place >= len(shards):
        raise CliError(f"--shard-map: {shard_map} has no place {place}, which JOB_COMPLETION_INDEX asks for")
    return shards[place]
