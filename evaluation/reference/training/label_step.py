"""Labels of the suite's queries for a pair in a folder, without a pair file."""

from contextlib import nullcontext
from pathlib import Path

from evaluation.reference.corpus.queries import REFERENCE_SOURCE, read_reference
from evaluation.reference.corpus.verifier import SuiteVerifier
from labeler_jobs.pipeline import STAGE_NAMES, Labeling, LabelJob, Outcome, Watcher
from labeler_jobs.plan import LabelSettings, QuerySource
from labeler_jobs.queries.loading import load_queries
from services.common.pair import ModelSection, Pair, RouterSection


def make_job(weights: Path, source: QuerySource, num_shards: int, settings: LabelSettings) -> LabelJob:
    """What is to be labelled.

    Args:
        weights: Folder that holds slm and llm.
        source: Split of the suite, and how many of its queries.
        num_shards: Shards of every stage.
        settings: How they are labelled; the verifier is the suite's own.
    """
    pair = Pair(
        name=REFERENCE_SOURCE,
        description="The reference pair",
        slm=ModelSection(model=str(weights / "slm")),
        llm=ModelSection(model=str(weights / "llm")),
        router=RouterSection(),
    )
    readers = {REFERENCE_SOURCE: read_reference}
    return LabelJob(
        pair=pair,
        source=source,
        num_shards=num_shards,
        settings=settings,
        load_queries=lambda: load_queries(source.name, source.path, source.split, source.limit, readers=readers),
        open_verifier=lambda: nullcontext(SuiteVerifier()),
    )


def label_suite(job: LabelJob, out: Path, watcher: Watcher) -> Outcome:
    """Labels what is missing.

    Args:
        job: What is to be labelled.
        out: Output folder; the dataset is in its folder `dataset`.
        watcher: Is told how it goes on.

    Raises:
        LabelError: A shard could not be made; finished ones are kept.
        PlanError: The folder belongs to another run.
    """
    labeling = Labeling(job, str(out))
    labeling.run(STAGE_NAMES, range(job.num_shards), watcher)
    outcome = labeling.outcome()
    assert outcome is not None, "all shards were made"
    return outcome
