"""The suite's queries, as a source that labels are made from."""

from collections.abc import Iterator

from evaluation.reference.corpus.samples import NUM_VALIDATION, Sample, training_samples, unseen_samples
from labeler_jobs.queries.loading import Query
from labeler_jobs.queries.rows import QueryError

REFERENCE_SOURCE = "reference"
"""Name of this source."""


def read_reference(path: str = "", split: str = "") -> Iterator[Query]:
    """Reads the suite's queries; implements `labeler_jobs.queries.loading.QueryReader`.

    Args:
        path: Must be empty: the suite is drawn, not stored.
        split: "train" (the default) or "validation".

    Raises:
        QueryError: There is no such split. Held-out queries are none of them: nothing may learn from what it is
            measured on.
    """
    if path:
        raise QueryError(f"{REFERENCE_SOURCE}: the suite is drawn and takes no path, got {path!r}")
    if split in ("", "train"):
        return map(_query, training_samples())
    if split == "validation":
        return map(_query, unseen_samples("validation", NUM_VALIDATION))
    raise QueryError(f"{REFERENCE_SOURCE}: split {split!r} is not one of train, validation")


def _query(sample: Sample) -> Query:
    return Query(f"{REFERENCE_SOURCE}-{sample.index}", sample.domain, sample.query, str(sample.answer))
