"""Makes a dataset of what orchestrators have kept of live traffic.

Owns the labels there: no verifier has looked at these tokens, so wherever the models differ counts as divergent. It
also owns what is held back for validation: whole answers, chosen by chance.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from labeler_jobs.shards.store import ShardStore
from labeler_jobs.stages.dataset import labelled_schema
from labeler_jobs.statistics import LabelCounts
from labeler_jobs.verifiers.verifier import Label
from router_service.checkpoint_files import CheckpointError
from router_service.description import ModelIdentity, read_identity
from services.common.draft_sample import PREFIX, SUFFIX, DraftSample, SampleError, SampleGone, read_sample

DOMAIN = "live"
_SHARD = "part-00000-of-00001.parquet"


def find_samples(folders: Sequence[Path]) -> list[Path]:
    """All files of drafts in some folders, oldest first in each.

    Raises:
        SampleError: A folder has none.
    """
    found: list[Path] = []
    for folder in folders:
        paths = sorted(folder.glob(f"{PREFIX}*{SUFFIX}"))
        if not paths:
            raise SampleError(f"{folder}: holds no {PREFIX}*{SUFFIX}")
        found += paths
    return found


def collect_samples(
    paths: Sequence[Path],
    out: Path,
    validation: Path | None = None,
    *,
    validation_share: float = 0.1,
    seed: int = 1,
) -> dict[Path, LabelCounts]:
    """Writes what the files hold as one dataset, or as two of different answers.

    Args:
        paths: At least one file.
        out: Folder of the dataset.
        validation: Folder of the other one; None makes none.
        validation_share: Share of the answers that go there.
        seed: Chooses them.

    Returns:
        What each dataset holds.

    Raises:
        SampleError: A file can't be used, or is of another pair than the first one; a dataset would be empty, or is
            there already. Nothing is written.
        ShardError: A dataset can't be written.
    """
    query_ids: set[int] = set()
    schema: pa.Schema | None = None
    for path, sample in _samples(paths):
        schema = schema or _schema(path, sample)
        query_ids.update(sample.columns["query_id"].tolist())
    if schema is None:
        raise SampleError(f"{paths[0]}: no such file, and no other")
    held_back = {each for each in query_ids if validation and _chance(seed, each) < validation_share}
    parts = {out: query_ids - held_back} | ({validation: held_back} if validation else {})
    for folder, wanted in parts.items():
        if not wanted:
            raise SampleError(f"{folder}: would be empty: there are {len(query_ids)} answers in all")
        if folder.exists() and any(folder.glob("*.parquet")):
            raise SampleError(f"{folder}: holds a dataset already")
    return {folder: _write(folder, paths, schema, wanted) for folder, wanted in parts.items()}


def _write(folder: Path, paths: Sequence[Path], schema: pa.Schema, query_ids: Set[int]) -> LabelCounts:
    counts = LabelCounts(num_queries=len(query_ids))

    def batches() -> Iterator[pa.RecordBatch]:
        for _, sample in _samples(paths):
            columns = sample.columns
            rows = np.flatnonzero([query_id in query_ids for query_id in columns["query_id"].tolist()])
            if len(rows):
                yield _batch({name: column[rows] for name, column in columns.items()}, schema, counts)

    ShardStore(str(folder)).write(_SHARD, schema, batches())
    return counts


def _chance(seed: int, query_id: int) -> float:
    return random.Random(f"{seed}/{query_id}").random()


def _schema(path: Path, sample: DraftSample) -> pa.Schema:
    return labelled_schema(*_identities(path, sample.pair), sample.columns["top_logits"].shape[1], verified=False)


def _samples(paths: Sequence[Path]) -> Iterator[tuple[Path, DraftSample]]:
    """The files that are still there, of one pair."""
    first: tuple[Path, pa.Schema] | None = None
    for path in paths:
        try:
            sample = read_sample(path)
        except SampleGone:
            continue
        found = _schema(path, sample)
        first = first or (path, found)
        if not found.equals(first[1], check_metadata=True):
            raise SampleError(f"{path}: is of another pair than {first[0]}")
        _check_range(path, sample)
        yield path, sample


def _check_range(path: Path, sample: DraftSample) -> None:
    slm, llm = _identities(path, sample.pair)
    if (width := sample.columns["hidden_state"].shape[1]) != slm.hidden_size:
        raise SampleError(
            f"{path}: column 'hidden_state' has {width} values a row, the SLM {slm.model_id!r} a hidden size of "
            f"{slm.hidden_size}"
        )
    for name, model in (("slm_token_id", slm), ("llm_token_id", llm)):
        if len(wrong := np.flatnonzero(sample.columns[name] >= model.vocab_size)):
            value = sample.columns[name][wrong[0]]
            raise SampleError(
                f"{path}: column {name!r}, row {wrong[0]}: {value} is outside the vocabulary of {model.vocab_size}"
            )


def _identities(path: Path, pair: Mapping[str, Any]) -> tuple[ModelIdentity, ModelIdentity]:
    try:
        return read_identity(path, "metadata.slm", pair["slm"]), read_identity(path, "metadata.llm", pair["llm"])
    except CheckpointError as error:
        raise SampleError(str(error)) from error


def _batch(columns: Mapping[str, NDArray[Any]], schema: pa.Schema, counts: LabelCounts) -> pa.RecordBatch:
    query_ids = columns["query_id"].tolist()
    differs = columns["slm_token_id"] != columns["llm_token_id"]
    counts.num_tokens += len(query_ids)
    counts.num_different += int(differs.sum())
    counts.num_divergent += int(differs.sum())
    arrays = {
        "query_id": pa.array([f"{DOMAIN}-{query_id:016x}" for query_id in query_ids]),
        "domain": pa.array([DOMAIN] * len(query_ids)),
        "label": pa.array(np.where(differs, Label.DIVERGENT, Label.IDENTICAL).astype(np.int8)),
        **{name: pa.array(columns[name]) for name in ("position", "slm_token_id", "llm_token_id")},
        **{name: _lists(columns[name], schema.field(name).type) for name in ("hidden_state", "top_logits")},
    }
    return pa.RecordBatch.from_arrays([arrays[name] for name in schema.names], schema=schema)


def _lists(values: NDArray[np.float16], of: pa.DataType) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), type=of)
